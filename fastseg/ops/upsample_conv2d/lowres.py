"""The pieces of upsample_conv2d: plain differentiable functions on channels_last maps."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from ..._native import with_huge_pages
from ..upsample_bilinear import upsample_bilinear
from ..upsample_taps import MODES, upsample_taps

_SOURCES = ("x", "x2", "x3", "x4")


@dataclasses.dataclass(frozen=True)
class Resize:
    """F.interpolate with fixed arguments; a map of the right size is returned as it is."""

    size: list[int]
    mode: str
    align_corners: bool

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, expected 'bilinear' or 'nearest'")
        if self.mode == "nearest" and self.align_corners:
            raise ValueError("align_corners is True, but mode 'nearest' has no corners to align")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, h, w] -> [N, C, *size]."""
        if x.shape[2] == self.size[0] and x.shape[3] == self.size[1]:
            return x
        if self.mode == "nearest":
            return F.interpolate(x, tuple(self.size), mode="nearest")
        height, width = self.size
        return upsample_bilinear(x, (height, width), align_corners=self.align_corners)


def convolve_large(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """F.conv2d with padding that keeps the size; a 1x1 kernel as a matrix product."""
    if weight.shape[2] == 1 and bias is None:
        return project(x, weight)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def project(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Products with every tap: [N, C, h, w] -> [N, k * k * C_out, h, w], tap after tap.

    Args:
        x: map in channels_last.
        weight: [C_out, C, k, k].
    """
    n, channels, height, width = x.shape
    matrix = weight.permute(1, 2, 3, 0).reshape(channels, -1)
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    taps = _multiply(rows, matrix).view(n, height, width, matrix.shape[1])
    return taps.permute(0, 3, 1, 2)


def _multiply(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x @ y, in huge pages where that can be said.

    Taps are the largest tensors here: in small pages, mapping them takes as long as the product.
    """
    if torch.compiler.is_compiling():
        return x @ y
    out = torch.empty(x.shape[0], y.shape[1], dtype=x.dtype, device=x.device)
    if type(out) is not torch.Tensor:  # a fake one, without memory
        return x @ y
    return with_huge_pages(out).addmm_(x, y, beta=0)


def add_resized(
    added: torch.Tensor | None, taps: list[torch.Tensor], kernel: int, resize: Resize
) -> torch.Tensor:
    """The maps of taps resized, shifted and summed, and `added` if there is one."""
    if kernel == 1 and taps[0].device.type == "cuda":  # the resize has a CUDA kernel, the sum none
        for tap in taps:
            added = resize(tap) if added is None else added + resize(tap)
    else:
        for i in range(0, len(taps), len(_SOURCES)):
            sources = dict(zip(_SOURCES, taps[i : i + len(_SOURCES)], strict=False))
            height, width = resize.size
            added = upsample_taps(
                **sources,
                added=added,
                size=(height, width),
                kernel=kernel,
                mode=resize.mode,
                align_corners=resize.align_corners,
            )
    assert added is not None
    return added
