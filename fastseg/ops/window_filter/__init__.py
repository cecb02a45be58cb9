"""The truncated Gaussian filter: every pixel sees a window of its neighbours (ConvCRF's form)."""

from __future__ import annotations

import torch

from .op import window_filter_op

__all__ = ["window_filter"]


def window_filter(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """Sums the values of the pixels of a window, weighted by a Gaussian of their features.

        out[i] = sum over |dy|, |dx| <= radius of exp(-|f_i - f_j|^2 / 2) values[j]

    with j the pixel (dy, dx) from i, if it lies in the image; j = i included. This is
    gaussian_filter with the sum cut off. Neighbours are read in place: there is no unfolded copy,
    and the backward computes the weights anew, so both need memory for a few maps.

    Args:
        values: [N, L, H, W]; float32, bfloat16, float16 (sums in float32) or float64; N may be 0.
        features: [N, D, H, W] in the dtype of `values`, in units of the standard deviation.
        radius: how many rows and columns away a neighbour may be, at least 0.

    Returns:
        [N, L, H, W] in the dtype and the memory format of `values`. Both tensors are
        differentiable; with constant features any number of times.

    Raises:
        ValueError: shapes that do not fit, or a negative radius.
        TypeError: dtypes.
    """
    return window_filter_op(values, features, radius)
