"""The truncated Gaussian filter: every pixel sees a window of its neighbours (ConvCRF's form)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def window_filter(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """Sums the values of the pixels of a window, weighted by a Gaussian of their features.

        out[i] = sum over |dy|, |dx| <= radius of exp(-|f_i - f_j|^2 / 2) values[j]

    with j the pixel (dy, dx) from i, if it lies in the image; j = i included. This is
    gaussian_filter with the sum cut off. Neighbours are read in place, shift by shift; no unfolded
    copy is made, and the backward computes the weights anew: both need memory for a few maps.

    Args:
        values: [N, L, H, W], floating point.
        features: [N, D, H, W] in the dtype of `values`, in units of the standard deviation.
        radius: how many rows and columns away a neighbour may be, at least 0.

    Returns:
        [N, L, H, W]. Both tensors are differentiable (once).

    Raises:
        ValueError: shapes that do not fit, or a negative radius. TypeError: dtypes that differ.
    """
    if values.dim() != 4 or features.dim() != 4:
        raise ValueError(
            f"values and features have shapes {tuple(values.shape)} and {tuple(features.shape)}, "
            "expected [N, L, H, W] and [N, D, H, W]"
        )
    if (values.shape[0], *values.shape[2:]) != (features.shape[0], *features.shape[2:]):
        raise ValueError(
            f"features have shape {tuple(features.shape)}, expected N, H and W of values, "
            f"{tuple(values.shape)}"
        )
    if values.dtype != features.dtype:
        raise TypeError(f"features have dtype {features.dtype}, expected {values.dtype} as values")
    if radius < 0:
        raise ValueError(f"radius is {radius}, expected at least 0")
    return _WindowFilter.apply(values, features, radius)


class _WindowFilter(torch.autograd.Function):
    """The weights are symmetric, so each is computed once and used in both directions."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, features: torch.Tensor, radius: int
    ) -> torch.Tensor:
        ctx.save_for_backward(values, features)
        ctx.radius = radius
        return _filter(values, features, radius)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, features = ctx.saved_tensors
        grad_values = _filter(grad, features, ctx.radius) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return grad_values, None, None
        grad_features = torch.zeros_like(features)
        for here, there in _pairs(values, ctx.radius):
            difference = features[here] - features[there]
            weight = torch.exp(-0.5 * difference.square().sum(1, keepdim=True))
            product = (grad[here] * values[there] + values[here] * grad[there]).sum(1, keepdim=True)
            pull = difference * (weight * product)
            grad_features[here] -= pull
            grad_features[there] += pull
        return grad_values, grad_features, None


def _filter(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    out = values.clone()  # the pixel itself, at distance 0
    for here, there in _pairs(values, radius):
        difference = features[here] - features[there]
        weight = torch.exp(-0.5 * difference.square().sum(1, keepdim=True))
        out[here].addcmul_(weight, values[there])
        out[there].addcmul_(weight, values[here])
    return out


def _pairs(x: torch.Tensor, radius: int) -> Iterator[tuple[Any, Any]]:
    """Two slices of a map for every shift inside the window, of opposite shifts only one."""
    height, width = x.shape[2:]
    for dy in range(min(radius, height - 1) + 1):
        reach = min(radius, width - 1)
        for dx in range(-reach if dy > 0 else 1, reach + 1):
            here = (..., slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
            there = (..., slice(dy, height), slice(max(0, dx), width - max(0, -dx)))
            yield here, there
