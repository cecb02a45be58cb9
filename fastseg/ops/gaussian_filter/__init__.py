"""The exact Gaussian filter over points with features."""

from __future__ import annotations

import torch

from .op import gaussian_filter_op

__all__ = ["gaussian_filter"]


def gaussian_filter(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Sums the values of all points, weighted by a Gaussian of the distance of their features.

        out[:, :, i] = sum_j exp(-|f_i - f_j|^2 / 2) values[:, :, j],  j = i included

    The same as values @ exp(-torch.cdist(f, f) ** 2 / 2) with f = features.mT, without the P x P
    matrix: memory grows with P alone. The time grows with P * P; permutohedral_filter approximates
    the sum in time proportional to P. On CUDA tensors a Triton kernel computes it (plain PyTorch
    for float64 and for D above 8): float32 products to float32's digits on tensor cores, or as TF32
    where torch.set_float32_matmul_precision says so. It leaves out tiles of points so far apart
    that their weights, all together, are less than the rounding of 1.

    Args:
        values: [N, L, P]: L values for each of P points, N times; float32, bfloat16, float16 or
            float64; N may be 0.
        features: [N, D, P]: positions of the points, in units of the standard deviation; any of
            the four dtypes. Sums and weights are float64 if one of the two is, else float32.

    Returns:
        [N, L, P] in the dtype of `values`. Both arguments are differentiable.

    Raises:
        ValueError: a tensor without three dimensions, N or P that differ, L, D or P below 1.
        TypeError: dtypes.
    """
    return gaussian_filter_op(values, features)
