"""Runs layers that begin with a convolution of resized and concatenated maps, unbuilt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_conv2d import upsample_conv2d
from .altered import original_class, why_not_short
from .chain import flat, is_sequence, run_after
from .conv import is_convolution
from .separable import upsample_separable_conv2d


def run_resized(
    parts: list[torch.Tensor],
    layers: Iterable[nn.Module],
    size: tuple[int, int],
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    """Runs layers that begin with a convolution on the resized and concatenated parts.

    Args:
        parts: maps [N, C_i, h_i, w_i], in the order in which they are concatenated.
        layers: begin with a convolution; `resizable` of it is None.
        size: height and width that the parts are resized to.
        mode, align_corners: as in F.interpolate; "nearest" or "bilinear".

    Returns:
        Map [N, C_out, *size].
    """

    def convolve(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return upsample_conv2d(parts, weight, bias, size, mode, align_corners)

    return run_after(convolve, layers)


def convolve_resized(
    parts: list[torch.Tensor], layers: Any, size: tuple[int, int] | None = None
) -> torch.Tensor:
    """`run_resized` where that is possible, and the layers on the concatenated parts where not.

    Args:
        parts: maps [N, C_i, h_i, w_i], in the order in which they are concatenated.
        layers: an nn.Sequential.
        size: height and width that the parts are resized to; by default the last one's.
    """
    if size is None:
        size = (parts[-1].shape[2], parts[-1].shape[3])
    if why_not_short(layers, _first_is_skipped, begins_with) is None:
        return run_resized(parts, layers, size)
    maps = [resized(part, size) for part in parts]
    return layers(maps[0] if len(maps) == 1 else torch.cat(maps, 1))


def _first_is_skipped(layers: Any) -> Iterable[nn.Module]:
    return layers, layers[0]


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A map at another size, bilinearly; the map itself where it has the size."""
    return x if x.shape[2:] == size else upsample_bilinear(x, size)


def run_separable(
    parts: Sequence[torch.Tensor], layers: Iterable[nn.Module], align_corners: bool = False
) -> torch.Tensor:
    """Runs layers that begin with a separable convolution on the parts, as `run_resized` does.

    Args:
        parts: maps [N, C_i, h_i, w_i]; they are resized to the largest.
        layers: begin with two convolutions; `separable` of them is None.
        align_corners: of the bilinear resizing.

    Returns:
        Map [N, C_out, H, W] of the size of the largest part.
    """
    depthwise, *after = flat(layers)

    def convolve(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return upsample_separable_conv2d(
            parts, depthwise.weight, weight, bias, align_corners=align_corners
        )

    return run_after(convolve, after)


def resizable(convolution: Any) -> str | None:
    """Why `run_resized` cannot compute a convolution, or None."""
    kernel = convolution.kernel_size
    if not isinstance(convolution, nn.Conv2d) or kernel not in ((1, 1), (3, 3)):
        return f"{convolution} is no 1x1 or 3x3 convolution"
    return keeps_the_map(convolution)


def keeps_the_map(convolution: Any) -> str | None:
    """Why a convolution is not a dense one at every pixel, with zeros around the map; or None."""
    rows, columns = convolution.kernel_size
    if convolution.padding != (rows // 2, columns // 2) or convolution.groups != 1:
        return f"{convolution} does not keep the size, or has groups"
    if convolution.stride != (1, 1) or convolution.dilation != (1, 1):
        return f"{convolution} has a stride or dilation"
    if convolution.padding_mode != "zeros":
        return f"padding_mode is {convolution.padding_mode!r}"
    return None


def separable(depthwise: Any, pointwise: Any) -> str | None:
    """Why `run_separable` cannot compute two convolutions, or None."""
    if not is_convolution(depthwise):
        return f"a {original_class(depthwise).__name__} is no convolution"
    if depthwise.kernel_size != (3, 3) or not (
        depthwise.groups == depthwise.in_channels == depthwise.out_channels
    ):
        return f"{depthwise} is no depthwise 3x3 convolution"
    if depthwise.bias is not None or depthwise.padding != (1, 1) or depthwise.stride != (1, 1):
        return f"{depthwise} has a bias, or does not keep the size"
    if depthwise.dilation != (1, 1) or depthwise.padding_mode != "zeros":
        return f"{depthwise} is dilated, or does not pad with zeros"
    if pointwise.kernel_size != (1, 1):
        return f"{pointwise} is no 1x1 convolution"
    return resizable(pointwise)


def begins_with(layers: Any) -> str | None:
    """Why `run_resized` cannot run a sequence of layers, or None."""
    if not is_sequence(layers) or not isinstance(layers[0], nn.Conv2d):
        return f"a {original_class(layers).__name__} does not begin with a convolution"
    return resizable(layers[0])
