"""The definition of pyramid_pool in plain PyTorch: for each grid one 0/1 matrix per axis."""

from __future__ import annotations

import torch

from ...dtypes import compute_dtype
from ...layout import map_format
from .cells import order_cells


def forward(x: torch.Tensor, bins: list[int]) -> torch.Tensor:
    """Per grid rows [b, H] @ x [N, C, H, W] @ columns [b, W]^T / area, in float32 or float64."""
    grids = []
    for b in bins:
        rows, columns = window_matrix(x, x.shape[2], b), window_matrix(x, x.shape[3], b)
        sums = rows @ x.to(rows.dtype) @ columns.T
        grids.append((sums / _areas(rows, columns)).flatten(2))
    return order_cells(torch.cat(grids, 2).to(x.dtype), map_format(x) is torch.channels_last)


def backward(
    grad_out: torch.Tensor, input_size: list[int], bins: list[int], channels_last: bool
) -> torch.Tensor:
    """The adjoint: the same matrices, transposed."""
    parts = []
    for b, grad in zip(bins, grad_out.split([b * b for b in bins], 2), strict=True):
        rows, columns = (window_matrix(grad_out, n, b) for n in input_size)
        cells = grad.unflatten(2, (b, b)).to(rows.dtype) / _areas(rows, columns)
        parts.append(rows.T @ cells @ columns)
    return torch.stack(parts).sum(0).to(grad_out.dtype)


def window_matrix(x: torch.Tensor, size: int, b: int) -> torch.Tensor:
    """Matrix [b, size]: 1 where cell i of b covers a pixel, else 0; on x's device."""
    cell = torch.arange(b, device=x.device)[:, None]
    pixel = torch.arange(size, device=x.device)
    begin, end = cell * size // b, -(-(cell + 1) * size // b)
    return ((pixel >= begin) & (pixel < end)).to(compute_dtype(x))


def _areas(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Pixels of each cell [b, b]."""
    return rows.sum(1)[:, None] * columns.sum(1)
