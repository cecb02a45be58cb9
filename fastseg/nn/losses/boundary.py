"""Weights of pixels by their distance from the borders between classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def boundary_weight(
    target: torch.Tensor, width: int = 3, weight: float = 5.0, ignore_index: int = 255
) -> torch.Tensor:
    """A pixel_weight for the losses: `weight` near a border between two classes, else 1.

    A border is where two pixels side by side have different classes, and neither is ignored.

    Args:
        target: classes [N, H, W].
        width: pixels within this distance (Chebyshev) of a border's pixels are near it; at least 0.
        weight: of pixels near a border.
        ignore_index: target value of ignored pixels, which make no border.

    Returns:
        Weights [N, H, W], float32.
    """
    if target.dim() != 3:
        raise ValueError(f"target has shape {tuple(target.shape)}, expected 3 dimensions [N, H, W]")
    if width < 0:
        raise ValueError(f"width is {width}, expected at least 0")
    counted = target != ignore_index
    border = torch.zeros(target.shape, dtype=torch.bool, device=target.device)
    for axis in (1, 2):
        first = target.narrow(axis, 0, target.shape[axis] - 1)
        second = target.narrow(axis, 1, target.shape[axis] - 1)
        both = counted.narrow(axis, 0, first.shape[axis]) & counted.narrow(
            axis, 1, first.shape[axis]
        )
        differs = (first != second) & both
        border.narrow(axis, 0, differs.shape[axis]).logical_or_(differs)
        border.narrow(axis, 1, differs.shape[axis]).logical_or_(differs)
    near = border.to(torch.float32)
    for axis in (1, 2):  # a square is a maximum along one axis, then along the other
        window = [1, 1]
        window[axis - 1] = 2 * width + 1
        pad = [width if size > 1 else 0 for size in window]
        near = F.max_pool2d(near, window, stride=1, padding=pad)
    return 1.0 + (weight - 1.0) * near
