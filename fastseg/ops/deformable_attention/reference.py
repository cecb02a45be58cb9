"""The definition of deformable_attention in plain PyTorch: four gathers per level.

Not F.grid_sample itself, which has neither second derivatives nor forward mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from ...dtypes import widened


def forward(
    value: torch.Tensor, shapes: list[int], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """[N, Lq, M * D], computed in float32 or float64."""
    v, x, w = map(widened, (value, locations, weights))
    # A place outside counts as 0: times a weight that is not finite that is NaN.
    out = _poison(shapes, x, w).flatten(3).sum(3)[..., None].expand(*x.shape[:3], v.shape[3])
    for level, tap in _taps(v, shapes, x):
        out = out + ((w[:, :, :, level] * tap.factor)[..., None] * tap.picked).sum(3)
    return out.flatten(2).to(value.dtype)


def backward(
    grad_out: torch.Tensor,
    value: torch.Tensor,
    shapes: list[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients to value, locations and weights."""
    v, x, w = map(widened, (value, locations, weights))
    g = grad_out.to(v.dtype).unflatten(2, v.shape[2:])[:, :, :, None]  # [N, Lq, M, 1, D]
    bad = torch.where(x.isnan(), x, 0.0).sum(5)
    of_levels: dict[int, Any] = {}
    of_weights = [bad[:, :, :, i] for i in range(len(shapes) // 2)]
    of_x, of_y = list(of_weights), list(of_weights)
    for level, tap in _taps(v, shapes, x):
        weight = w[:, :, :, level]
        dot = (g * tap.picked).sum(4)
        of_weights[level] = of_weights[level] + tap.factor * dot
        of_x[level] = of_x[level] + weight * tap.along_x * dot
        of_y[level] = of_y[level] + weight * tap.along_y * dot
        factor = torch.where(tap.inside, weight * tap.factor, 0.0)
        part = factor[..., None] * g
        spread = torch.zeros_like(tap.level).scatter_add(2, tap.where, _by_head(part))
        of_levels[level] = of_levels.get(level, 0) + spread
    parts = [of_levels[i].transpose(1, 2) for i in sorted(of_levels)]
    of_value = torch.cat(parts, 1) if parts else torch.zeros_like(v)
    of_locations = torch.stack([torch.stack(of_x, 3), torch.stack(of_y, 3)], 5)
    grads = (of_value, of_locations, torch.stack(of_weights, 3))
    return tuple(a.to(b.dtype) for a, b in zip(grads, (value, locations, weights), strict=True))  # type: ignore[return-value]


class _Tap(NamedTuple):
    """One of the four cells of every place on a level; tensors [N, Lq, M, P]."""

    inside: torch.Tensor
    factor: torch.Tensor  # the cell's weight
    along_x: torch.Tensor  # its derivative to the location
    along_y: torch.Tensor
    picked: torch.Tensor  # values [N, Lq, M, P, D]
    level: torch.Tensor  # [N, M, cells, D]
    where: torch.Tensor  # [N, M, Lq * P, D]: where in it


def _taps(
    value: torch.Tensor, shapes: list[int], locations: torch.Tensor
) -> Iterator[tuple[int, _Tap]]:
    """The four taps of each level that has cells."""
    begin = 0
    for i, (h, w) in enumerate(zip(shapes[::2], shapes[1::2], strict=True)):
        level = value[:, begin : begin + h * w].transpose(1, 2)
        begin += h * w
        if h * w == 0:
            continue
        x = locations[:, :, :, i, :, 0] * w - 0.5
        y = locations[:, :, :, i, :, 1] * h - 0.5
        reached = _reached(x, w) & _reached(y, h)
        x, y = torch.where(reached, x, 0.0), torch.where(reached, y, 0.0)
        left, top = x.floor().detach(), y.floor().detach()
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = left.long() + dx, top.long() + dy
                inside = reached & (column >= 0) & (column < w) & (row >= 0) & (row < h)
                cell = torch.where(inside, row * w + column, 0)
                index = _by_head(cell[..., None].expand(*cell.shape, value.shape[3]))
                picked = level.gather(2, index).unflatten(2, (cell.shape[1], cell.shape[3]))
                picked = torch.where(inside[..., None], picked.transpose(1, 2), 0.0)
                of_x = x - left if dx else 1 - (x - left)
                of_y = y - top if dy else 1 - (y - top)
                along_x, along_y = (2 * dx - 1) * w * of_y, (2 * dy - 1) * h * of_x
                yield i, _Tap(inside, of_x * of_y, along_x, along_y, picked, level, index)


def _by_head(x: torch.Tensor) -> torch.Tensor:
    """[N, Lq, M, P, D] -> [N, M, Lq * P, D]"""
    return x.transpose(1, 2).flatten(2, 3)


def _poison(shapes: list[int], locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[N, Lq, M, L, P]: NaN where a place outside is NaN or has a weight that is not finite, else
    0, as a value of 0 would give."""
    x = locations.detach()
    heights = x.new_tensor(shapes[::2])[:, None]
    widths = x.new_tensor(shapes[1::2])[:, None]
    outside = (heights * widths == 0) | ~(
        _reached(x[..., 0] * widths - 0.5, widths) & _reached(x[..., 1] * heights - 0.5, heights)
    )
    bad = torch.where(x.isnan(), x, 0.0).sum(5) + weights.detach() * 0
    return torch.where(outside, bad, 0.0)


def _reached(position: torch.Tensor, side: torch.Tensor | int) -> torch.Tensor:
    """Whether one of the two cells around a position may lie on the map."""
    return (position >= -1) & (position < side)
