"""Resizes, shifts and sums the taps of convolutions that were multiplied at low resolution."""

from __future__ import annotations

import torch

from ..._checks import size_pair
from .op import upsample_taps_op

__all__ = ["MODES", "upsample_taps"]

MODES = ("bilinear", "nearest")


def upsample_taps(
    x: torch.Tensor,
    x2: torch.Tensor | None = None,
    x3: torch.Tensor | None = None,
    x4: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
    *,
    size: int | tuple[int, int],
    kernel: int,
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    """Sums maps of taps, each resized to one size and shifted by its place in the kernel.

    out[y, x] = added[y, x] + sum over maps, ky and kx of U(tap[ky, kx])[y + ky - r, x + kx - r]
    with r = kernel // 2, U the resize, and no contribution from outside of the resized map. If a
    map of taps is x @ weight for each tap of a convolution, this is the zero-padded convolution of
    the resized x. The backward gathers, with float32 accumulation.

    Args:
        x, x2, x3, x4: maps of taps [N, kernel * kernel * C, h, w], tap after tap in row-major
            order, of any height and width; one dtype; N may be 0.
        added: map [N, C, *size].
        size: height and width of the result.
        kernel: rows and columns of taps, 1 or 3.
        mode: "bilinear" or "nearest", as in F.interpolate.
        align_corners: as in F.interpolate; only for "bilinear".

    Returns:
        Map [N, C, *size], in the dtype of x and the memory format of added, or of x
        without one; quickest in channels_last.

    Raises:
        ValueError: unfit shapes, devices, size, kernel or mode; align_corners with "nearest".
        TypeError: dtypes; a size or kernel that is not whole.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected 'bilinear' or 'nearest'")
    if not isinstance(kernel, int):
        raise TypeError(f"kernel is {kernel!r}, expected 1 or 3")
    nearest = mode == "nearest"
    return upsample_taps_op(x, x2, x3, x4, added, size_pair(size), kernel, nearest, align_corners)
