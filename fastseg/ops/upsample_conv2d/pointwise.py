"""A matrix product added to a map where it is, and one conversion of a gradient for all its uses.

Maps of logits' size cost more to read and write than to multiply: these save passes over them.
"""

from __future__ import annotations

from typing import Any

import torch

from ..._private_torch import may_write_in_place
from ...layout import in_format, map_format


def add_product(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """out + the 1x1 convolution of x; `out` may be overwritten.

    Args:
        out: map [N, C_out, h, w] in channels_last.
        x: map [N, C, h, w].
        weight: [C_out, C, 1, 1].
    """
    rows, matrix = _rows(x), weight.flatten(1).T
    if not may_write_in_place(out, rows, matrix):
        return _map(torch.addmm(_rows(out), rows, matrix), out.shape)
    return _AddProduct.apply(out, rows, matrix)


def in_layout(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """in_format(x, layout) of a map that was computed in channels_last.

    Its gradient comes in `layout`, and is brought into channels_last here once instead of by every
    function that reads it.
    """
    if map_format(x) is layout or not x.requires_grad or not may_write_in_place(x):
        return in_format(x, layout)
    return _InLayout.apply(x, layout)


def with_gradient_of_sum(out: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """out, to which bias has been added already without its gradient, a plain sum.

    Through the resize of the small map that bias was added to, the gradient would be rounded more
    often.
    """
    return _WithGradientOfSum.apply(out, bias) if bias.requires_grad else out


class _WithGradientOfSum(torch.autograd.Function):
    @staticmethod
    def forward(out: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return out.view_as(out)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return grad, grad.sum((0, 2, 3))


class _AddProduct(torch.autograd.Function):
    """out + x @ y by rows, in place: as a view of out it would cost two passes in the backward."""

    @staticmethod
    def forward(out: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if map_format(out) is not torch.channels_last:  # one pixel or one channel: any will do
            return out.add_(_map(x @ y, out.shape))
        _rows(out).addmm_(x, y)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        out, x, y = inputs
        ctx.mark_dirty(out)
        ctx.save_for_backward(x, y)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, y = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        rows = _rows(grad)
        return (
            grad,
            rows @ y.T if ctx.needs_input_grad[1] else None,
            # As its transpose, in the order in which weights lie.
            (rows.T @ x).T if ctx.needs_input_grad[2] else None,
        )


class _InLayout(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
        return x.contiguous(memory_format=layout)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad.contiguous(memory_format=torch.channels_last), None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """Map [N, C, h, w] -> [N * h * w, C], a view in channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    n, channels, height, width = shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)
