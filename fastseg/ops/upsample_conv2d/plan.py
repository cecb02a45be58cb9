"""When multiplying at low resolution pays."""

from __future__ import annotations

import torch

from .phases import doubles

# What things cost in multiply-adds of a matrix product, by number of values: resizing a map and
# concatenating it; reading, shifting and adding the taps of a 1x1 and of a 3x3 kernel; writing and
# reading a projected value. Fitted to 72 shapes of 8 to 256 channels in float32 on two cores with
# AVX2: where the ratio of both sides is between 0.7 and 1.4, so is that of the measured times. On
# two cores with AVX-512, 48 shapes of 16 to 256 channels: what multiplies before the resize takes
# 0.12 to 0.88 of the time wherever the plain form takes 0.6 ms or more; below, at most 1.16 times.
_RESIZE = 30
_GATHER = {1: 20, 3: 60}
_TAP = 40
# The same of a depthwise 3x3 convolution, and of placing and adding the phases of a doubled map.
_DEPTHWISE = 30
_INTERLEAVE = 20
# Where there is no gather kernel the taps of a 3x3 kernel go through one matrix per axis.
_TINY_PIXELS = 64


def has_gather_kernel(x: torch.Tensor) -> bool:
    """Whether upsample_taps is more than its definition on the device of x."""
    return x.device.type in ("cpu", "meta")


def pays(part: torch.Tensor, weight: torch.Tensor, size: list[int]) -> bool:
    """Whether `part` is better multiplied with `weight` before it is resized to `size`.

    Before: few pixels are multiplied, but each tap of each output channel is resized. After: the
    part's channels are resized once, and every pixel of the result is multiplied.
    """
    out_channels, channels, kernel = weight.shape[:3]
    pixels, large = part.shape[2] * part.shape[3], size[0] * size[1]
    if pixels >= large:
        return False
    if kernel > 1 and not has_gather_kernel(part):
        return pixels <= _TINY_PIXELS
    before = _before(pixels, large, channels, out_channels, kernel)
    return before < _after(large, channels, out_channels, kernel)


def phases_pay(part: torch.Tensor, weight: torch.Tensor, size: list[int], mode: str) -> bool:
    """Whether the convolution of `part` is best computed by the phases of a doubled map.

    More products than with taps at low resolution, but fewer values to read and add: of 32 channels
    it takes 0.7, of 64 0.85, of 128 1.1 times as long.
    """
    out_channels, channels, kernel = weight.shape[:3]
    if kernel != 3 or not doubles(part, size, mode):
        return False
    pixels, large = part.shape[2] * part.shape[3], size[0] * size[1]
    phases = 16 * pixels * out_channels * channels + large * out_channels * _INTERLEAVE
    if has_gather_kernel(part) and phases >= _before(pixels, large, channels, out_channels, kernel):
        return False
    return phases < _after(large, channels, out_channels, kernel)


def separable_pays(part: torch.Tensor, pointwise: torch.Tensor, size: list[int]) -> bool:
    """Whether a depthwise 3x3 and a pointwise convolution of `part` resized to `size` are better
    multiplied with each other, and `part` with each tap of the product, before it is resized.

    Args:
        pointwise: weight [C_out, C, 1, 1].
    """
    out_channels, channels = pointwise.shape[:2]
    pixels, large = part.shape[2] * part.shape[3], size[0] * size[1]
    if not has_gather_kernel(part) or pixels >= large:
        return False
    separate = _after(large, channels, out_channels, 1) + large * channels * _DEPTHWISE
    return _before(pixels, large, channels, out_channels, 3) < separate


def _before(pixels: int, large: int, channels: int, out_channels: int, kernel: int) -> int:
    """The cost of multiplying before the resize."""
    taps = pixels * kernel**2 * out_channels
    return taps * (channels + _TAP) + large * out_channels * _GATHER[kernel]


def _after(large: int, channels: int, out_channels: int, kernel: int) -> int:
    """The cost of multiplying after it."""
    return large * channels * (kernel**2 * out_channels + _RESIZE)
