"""The pieces of upsample_conv2d: plain differentiable functions."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from ..._native import with_huge_pages
from ..._private_torch import may_write_in_place
from ...layout import in_format
from ..upsample_bilinear import upsample_bilinear
from ..upsample_taps import MODES, upsample_taps
from . import plan

_SOURCES = ("x", "x2", "x3", "x4")
_FORMATS = (torch.contiguous_format, torch.channels_last)
_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


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


def largest(maps: list[torch.Tensor]) -> int:
    """Index of the map with most pixels, of equals the first."""
    found = 0
    for i, x in enumerate(maps):
        if x.shape[2] * x.shape[3] > maps[found].shape[2] * maps[found].shape[3]:
            found = i
    return found


def smallest(maps: list[torch.Tensor]) -> int:
    """Index of the map with fewest pixels, of equals the first."""
    found = 0
    for i, x in enumerate(maps):
        if x.shape[2] * x.shape[3] < maps[found].shape[2] * maps[found].shape[3]:
            found = i
    return found


def convolve_large(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """F.conv2d with padding that keeps the size; a 1x1 kernel as a matrix product."""
    if weight.shape[2] == 1 and bias is None:
        return project(x, weight)
    weight = _dense(weight)
    if _slow_backward(x, weight):
        out = F.conv2d(x.contiguous(), weight.contiguous(), padding=weight.shape[2] // 2)
        # There oneDNN begins its sums with the bias, which loses digits.
        return out if bias is None else add_bias(out, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)


def _slow_backward(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the backward in channels_last takes 1.5 to 1.8 times as long as in NCHW.

    So it is in float32 where oneDNN has AVX2 only; with AVX-512 channels_last is the quicker one
    up to 512 channels (0.55 to 0.95 of the time) and at 2048 takes 1.16 times as long.
    """
    records = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return records and x.device.type == "cpu" and x.dtype is torch.float32 and not _AVX512


def project(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Products with every tap: [N, C, h, w] -> [N, k * k * C_out, h, w], tap after tap.

    Args:
        x: map, quickest in channels_last.
        weight: [C_out, C, k, k].
        bias: [k * k * C_out].
    """
    n, channels, height, width = x.shape
    # [C_out, k * k, C], then tap after tap: two copies, and each moves whole cache lines.
    by_channel = weight.permute(0, 2, 3, 1).contiguous()
    matrix = by_channel.permute(1, 2, 0, 3).reshape(-1, channels)
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    product = _multiply(rows, matrix.T, bias)
    taps = product.view(n, height, width, matrix.shape[0])
    return taps.permute(0, 3, 1, 2)


def _multiply(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x @ y + bias in huge pages: taps are large, and mapping them takes as long as the product."""
    if not may_write_in_place(x, y, x if bias is None else bias):
        return x @ y if bias is None else torch.addmm(bias, x, y)
    out = _empty((x.shape[0], y.shape[1]), x)
    return out.addmm_(x, y, beta=0) if bias is None else out.copy_(bias).addmm_(x, y)


def add_bias(out: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """out [N, C, H, W] + bias [C]; `out` may be overwritten."""
    column = bias[:, None, None]
    return out.add_(column) if may_write_in_place(out, bias) else out + column


def _dense(weight: torch.Tensor) -> torch.Tensor:
    """A dense copy of a slice [C_out, C_i, k, k], which a convolution would make in small pages."""
    if not may_write_in_place(weight) or any(
        weight.is_contiguous(memory_format=f) for f in _FORMATS
    ):
        return weight
    return _empty(weight.shape, weight).copy_(weight)


def _empty(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    x = torch.empty(shape, dtype=like.dtype, device=like.device)
    return with_huge_pages(x) if type(x) is torch.Tensor else x  # a fake one has no memory


def add_resized(
    added: torch.Tensor | None, taps: list[torch.Tensor], kernel: int, resize: Resize
) -> torch.Tensor:
    """The maps of taps resized, shifted and summed, and `added` if there is one."""
    if kernel == 1 and not plan.has_gather_kernel(taps[0]):  # nothing to shift: resize and add
        for tap in taps:
            added = resize(tap) if added is None else added + resize(tap)
    else:
        # A map of one pixel has no memory format, so it is not the first.
        first = largest(taps)
        taps = [taps[first], *taps[:first], *taps[first + 1 :]]
        if added is not None:
            added = in_format(added, torch.channels_last)
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
