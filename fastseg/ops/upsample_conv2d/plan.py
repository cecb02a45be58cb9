"""When multiplying at low resolution pays."""

from __future__ import annotations

import torch

# What things cost in multiply-adds of a matrix product, by number of values: resizing a map and
# concatenating it; reading, shifting and adding the taps of a 1x1 and of a 3x3 kernel; writing and
# reading a projected value. Fitted to 72 shapes of 8 to 256 channels in float32 on two cores with
# AVX2: where the ratio of both sides is between 0.7 and 1.4, so is that of the measured times.
_RESIZE = 30
_GATHER = {1: 20, 3: 60}
_TAP = 40
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
    taps = kernel**2 * out_channels
    before = pixels * taps * (channels + _TAP) + large * out_channels * _GATHER[kernel]
    after = large * channels * (taps + _RESIZE)
    return before < after
