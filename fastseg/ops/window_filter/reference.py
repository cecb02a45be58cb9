"""The definition of window_filter in plain PyTorch, shift by shift: no unfolded copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ...dtypes import widened


def forward(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """[N, L, H, W], computed in float32 or float64."""
    f = widened(features)
    return _filter(widened(values), f, radius).to(values.dtype)


def feature_tangent(
    values: torch.Tensor, features: torch.Tensor, moved: torch.Tensor, radius: int
) -> torch.Tensor:
    """The change of forward() where the features change by `moved` [N, D, H, W]."""
    v, f, m = map(widened, (values, features, moved))
    out = torch.zeros_like(v)
    for here, there in _pairs(v, radius):
        difference = f[here] - f[there]
        move = (difference * (m[here] - m[there])).sum(1, keepdim=True)
        weight = -_weight(difference) * move
        out = out + _placed(weight * v[there], v, here) + _placed(weight * v[here], v, there)
    return out.to(values.dtype)


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, radius: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients [N, L, H, W] and [N, D, H, W]."""
    g, v, f = map(widened, (grad_out, values, features))
    grad_features = torch.zeros_like(f)
    for here, there in _pairs(v, radius):
        difference = f[here] - f[there]
        product = (g[here] * v[there] + v[here] * g[there]).sum(1, keepdim=True)
        pull = difference * (_weight(difference) * product)
        grad_features = grad_features - _placed(pull, f, here) + _placed(pull, f, there)
    return _filter(g, f, radius).to(values.dtype), grad_features.to(features.dtype)


def _filter(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """Weights are symmetric: each is computed once and used in both directions."""
    out = values.clone()  # the pixel itself, at distance 0
    for here, there in _pairs(values, radius):
        weight = _weight(features[here] - features[there])
        out = out + _placed(weight * values[there], values, here)
        out = out + _placed(weight * values[here], values, there)
    return out


def _placed(part: torch.Tensor, whole: torch.Tensor, place: tuple[Any, ...]) -> torch.Tensor:
    """A map as large as `whole`, with `part` at a place that _pairs gives, and zeros around it."""
    _, rows, columns = place
    height, width = whole.shape[2:]
    return F.pad(part, (columns.start, width - columns.stop, rows.start, height - rows.stop))


def _weight(difference: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * difference.square().sum(1, keepdim=True))


def _pairs(x: torch.Tensor, radius: int) -> Iterator[tuple[Any, Any]]:
    """Two slices of a map for every shift inside the window, of opposite shifts only one."""
    height, width = x.shape[2:]
    for dy in range(min(radius, height - 1) + 1):
        reach = min(radius, width - 1)
        for dx in range(-reach if dy > 0 else 1, reach + 1):
            here = (..., slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
            there = (..., slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
            yield here, there
