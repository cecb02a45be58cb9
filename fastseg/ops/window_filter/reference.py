"""The definition of window_filter in plain PyTorch, shift by shift: no unfolded copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from ...dtypes import widened


def forward(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """[N, L, H, W], computed in float32 or float64."""
    f = widened(features)
    return _filter(widened(values), f, radius).to(values.dtype)


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
        grad_features[here] -= pull
        grad_features[there] += pull
    return _filter(g, f, radius).to(values.dtype), grad_features.to(features.dtype)


def _filter(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """Weights are symmetric: each is computed once and used in both directions."""
    out = values.clone()  # the pixel itself, at distance 0
    for here, there in _pairs(values, radius):
        weight = _weight(features[here] - features[there])
        out[here].addcmul_(weight, values[there])
        out[there].addcmul_(weight, values[here])
    return out


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
