"""The definition of dilated_conv2d in plain PyTorch: a sum of shifted maps, one per tap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """sum over taps of weight[:, :, i, j] @ shifted x, within each group; in float64."""
    grouped_x = _grouped(_padded(x, padding), groups)
    grouped_weight = _grouped_weight(weight, groups)
    size = _output_size(x, weight, stride, padding, dilation)
    out = x.new_zeros((x.shape[0], groups, weight.shape[0] // groups, *size), dtype=grouped_x.dtype)
    for i, j, window in _taps(weight, stride, dilation, size):
        out += torch.einsum("ngchw,goc->ngohw", grouped_x[window], grouped_weight[..., i, j])
    out = out.flatten(1, 2)
    if bias is not None:
        out += bias[:, None, None]
    return out.to(x.dtype)


def backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[torch.Tensor, ...]:
    """The same sum read the other two ways; empty where output_mask says not needed."""
    grad = _grouped(grad_out.double(), groups)
    grouped_x = _grouped(_padded(x, padding), groups)
    grouped_weight = _grouped_weight(weight, groups)
    grad_x, grad_weight = torch.zeros_like(grouped_x), torch.zeros_like(grouped_weight)
    for i, j, window in _taps(weight, stride, dilation, list(grad_out.shape[2:])):
        if output_mask[0]:
            grad_x[window] += torch.einsum("ngohw,goc->ngchw", grad, grouped_weight[..., i, j])
        if output_mask[1]:
            per_row = torch.einsum("ngohw,ngchw->nhgoc", grad, grouped_x[window])
            grad_weight[..., i, j] = per_row.sum(dim=(0, 1))  # rows apart: shorter sums round less
    top, left = padding
    grads = (
        grad_x.flatten(1, 2)[:, :, top : top + x.shape[2], left : left + x.shape[3]],
        grad_weight.flatten(0, 1),
        grad.sum(dim=(0, 3, 4)).flatten(),
    )
    return tuple(
        g.to(x.dtype) if wanted else x.new_empty(0)
        for g, wanted in zip(grads, output_mask, strict=True)
    )


def branches(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    dilations: list[int],
    limit: float,
) -> torch.Tensor:
    """clamp(scale * cat(convolutions) + shift, 0, limit), rounded once."""
    maps = []
    for weight, dilation in zip(weights, dilations, strict=True):
        padding = [dilation * (size // 2) for size in weight.shape[2:]]
        double = (x.double(), weight.double())
        maps.append(forward(*double, None, [1, 1], padding, [dilation, dilation], 1))
    out = torch.cat(maps, 1)
    if scale is not None:
        out *= scale.double()[:, None, None]
    if shift is not None:
        out += shift.double()[:, None, None]
    return out.clamp_(0.0, limit).to(x.dtype)


def _padded(x: torch.Tensor, padding: list[int]) -> torch.Tensor:
    return F.pad(x.double(), (padding[1], padding[1], padding[0], padding[0]))


def _grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """[N, groups, channels of the group, H, W]."""
    return x.contiguous().unflatten(1, (groups, -1))


def _grouped_weight(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """[groups, C_out / groups, C_in / groups, kernel_h, kernel_w]."""
    return weight.double().contiguous().unflatten(0, (groups, -1))


def _output_size(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> list[int]:
    padded = [x.shape[2 + a] + 2 * padding[a] for a in (0, 1)]
    reach = [dilation[a] * (weight.shape[2 + a] - 1) + 1 for a in (0, 1)]
    return [(padded[a] - reach[a]) // stride[a] + 1 for a in (0, 1)]


def _taps(
    weight: torch.Tensor, stride: list[int], dilation: list[int], size: list[int]
) -> Iterator[tuple[int, int, tuple[Any, ...]]]:
    """Every tap (i, j) and the part of the padded map that it reads, as an index."""
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            rows, columns = (
                slice(
                    tap * dilation[a], tap * dilation[a] + (size[a] - 1) * stride[a] + 1, stride[a]
                )
                for a, tap in ((0, i), (1, j))
            )
            yield i, j, (..., rows, columns)
