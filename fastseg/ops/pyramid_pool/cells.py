"""The layout of pooled cells [N, C, cells], one for all backends."""

from __future__ import annotations

import torch

from ...layout import map_format


def count_cells(bins: list[int]) -> int:
    """Cells of all grids."""
    return sum(b * b for b in bins)


def empty_cells(x: torch.Tensor, bins: list[int]) -> torch.Tensor:
    """Uninitialised cells [N, C, cells] of the map x, in its memory format."""
    n, channels, cells = x.shape[0], x.shape[1], count_cells(bins)
    if map_format(x) is torch.channels_last:
        shape = (n, cells, channels)
        return torch.empty(shape, dtype=x.dtype, device=x.device).transpose(1, 2)
    return torch.empty((n, channels, cells), dtype=x.dtype, device=x.device)


def order_cells(cells: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """The same cells with the strides of empty_cells; copied only where they differ."""
    if channels_last:
        return cells.transpose(1, 2).contiguous().transpose(1, 2)
    return cells.contiguous()


def empty_gradient(
    grad_out: torch.Tensor, input_size: list[int], bins: list[int], channels_last: bool
) -> torch.Tensor:
    """An uninitialised map [N, C, *input_size] for the gradient of x."""
    return torch.empty(
        (grad_out.shape[0], grad_out.shape[1], input_size[0], input_size[1]),
        dtype=grad_out.dtype,
        device=grad_out.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
