"""Operations whose bits do not depend on the number of threads, as torch's do.

torch.softmax over labels computes most pixels in vectors, but those at the end of each thread's
part one by one, with another exponential. A sum to a single number is split among the threads; a
sum to several numbers is not. Nor is a product of small matrices, while a large product is.
"""

from __future__ import annotations

from typing import Any

import torch


class _Softmax(torch.autograd.Function):
    """A softmax whose derivative loses no digits, as that of a quotient of sums would."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        powers = (x - x.amax(1, keepdim=True)).exp()
        return powers / powers.sum(1, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        (q,) = ctx.saved_tensors
        return q * (grads[0] - (q * grads[0]).sum(1, keepdim=True))

    jvp = backward  # the Jacobian is symmetric


def softmax(x: torch.Tensor) -> torch.Tensor:
    """x.softmax(1)."""
    return x.softmax(1) if torch.compiler.is_compiling() else _Softmax.apply(x)


def log_softmax(x: torch.Tensor) -> torch.Tensor:
    """x.log_softmax(1)."""
    x = x - x.detach().amax(1, keepdim=True)
    return x - x.exp().sum(1, keepdim=True).log()


def weighted(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """weight * x for a number (): its gradient is summed over pixels, then images, then labels."""
    return weight.expand(x.shape[1], 1).expand(*x.shape[:2], 1) * x


def mixed(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """matrix @ x for a matrix [L, L] and x [N, L, P], in products of 512 pixels each: a larger one
    would be shared by the threads, in parts that depend on their number."""
    batch, labels, pixels = x.shape
    columns = 512
    padded = torch.nn.functional.pad(x, (0, -pixels % columns))
    parts = padded.unflatten(2, (-1, columns)).transpose(1, 2).flatten(0, 1)
    products = matrix.expand(len(parts), labels, labels) @ parts
    return products.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2)[:, :, :pixels]


def between(rows: torch.Tensor, x: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """rows @ x @ columns for matrices [H, H] and [W, W] and maps x [N, L, H, W], map by map."""
    maps = x.flatten(0, 1)
    half = torch.bmm(rows.expand(len(maps), *rows.shape), maps)
    return torch.bmm(half, columns.expand(len(maps), *columns.shape)).view_as(x)


def in_units(maps: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """maps [N, C, H, W] / widths [C], as [N, C, H * W]: gradients to the widths are summed over
    columns, then images, then rows."""
    batch, channels, height, _ = maps.shape
    by_row = widths.view(channels, 1, 1).expand(channels, height, 1)
    return (maps / by_row.expand(batch, channels, height, 1)).flatten(2)
