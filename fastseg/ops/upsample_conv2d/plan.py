"""When multiplying at low resolution pays."""

from __future__ import annotations

import dataclasses

import torch

from ... import _native
from .phases import doubles


@dataclasses.dataclass(frozen=True)
class Costs:
    """What things cost in multiply-adds of a matrix product.

    Attributes:
        resize: of each value of a map: resizing it, concatenating it and reading it again.
        gather: of each value of the result, by kernel size: reading, shifting and adding the taps.
        tap: of each projected value: writing it and reading it.
        depthwise: of each value of a depthwise 3x3 convolution.
        interleave: of each value of a doubled map: placing and adding the phases.
    """

    resize: int
    gather: dict[int, int]
    tap: int
    depthwise: int
    interleave: int


# Fitted to 72 shapes of 8 to 256 channels in float32 on two cores with AVX2: where the ratio of
# both sides is between 0.7 and 1.4, so is that of the measured times. On two cores with AVX-512, 48
# shapes of 16 to 256 channels: what multiplies before the resize takes 0.12 to 0.88 of the time
# wherever the plain form takes 0.6 ms or more; below, at most 1.16 times.
_CPU = Costs(resize=30, gather={1: 20, 3: 60}, tap=40, depthwise=30, interleave=20)

# Worked out, not measured, from what an H200 reaches: 790 TFLOP/s in bfloat16 and 4.3 TB/s. In the
# time of one value of two bytes read or written it does _MOVED multiply-adds; a value of float32
# takes twice as long, and so does a product in TF32. Resized maps are written, concatenated (read
# and written) and read by the convolution. The gather of nine taps takes what its machine code
# predicts for W12 (benchmarks/NOTES.md), 550 us, for 3 sources of 67 million values. A depthwise
# convolution reads and writes its map; phases are read, added to and written.
_MOVED = round(790e12 / 2 * 2 / 4.3e12)
_CUDA = Costs(
    resize=4 * _MOVED,
    gather={1: 2 * _MOVED, 3: 6 * _MOVED},
    tap=2 * _MOVED,
    depthwise=2 * _MOVED,
    interleave=3 * _MOVED,
)

# Where there is no gather kernel the taps of a 3x3 kernel go through one matrix per axis.
_TINY_PIXELS = 64


def costs(x: torch.Tensor) -> Costs:
    """On the device of x; a tensor without a device counts as one on the CPU."""
    return _CUDA if x.device.type == "cuda" else _CPU


def has_gather_kernel(x: torch.Tensor) -> bool:
    """Whether upsample_taps is more than its definition on the device of x."""
    if x.device.type == "cuda":
        return _native.has_cuda()
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
    cost = costs(part)
    before = _before(cost, pixels, large, channels, out_channels, kernel)
    return before < _after(cost, large, channels, out_channels, kernel)


def phases_pay(part: torch.Tensor, weight: torch.Tensor, size: list[int], mode: str) -> bool:
    """Whether the convolution of `part` is best computed by the phases of a doubled map.

    More products than with taps at low resolution, but fewer values to read and add: of 32 channels
    it takes 0.7, of 64 0.85, of 128 1.1 times as long.
    """
    out_channels, channels, kernel = weight.shape[:3]
    if kernel != 3 or not doubles(part, size, mode):
        return False
    pixels, large = part.shape[2] * part.shape[3], size[0] * size[1]
    cost = costs(part)
    sizes = (large, channels, out_channels, kernel)
    phases = 16 * pixels * out_channels * channels + large * out_channels * cost.interleave
    if has_gather_kernel(part) and phases >= _before(cost, pixels, *sizes):
        return False
    return phases < _after(cost, *sizes)


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
    cost = costs(part)
    separate = _after(cost, large, channels, out_channels, 1) + large * channels * cost.depthwise
    return _before(cost, pixels, large, channels, out_channels, 3) < separate


def _before(
    cost: Costs, pixels: int, large: int, channels: int, out_channels: int, kernel: int
) -> int:
    """The cost of multiplying before the resize."""
    taps = pixels * kernel**2 * out_channels
    return taps * (channels + cost.tap) + large * out_channels * cost.gather[kernel]


def _after(cost: Costs, large: int, channels: int, out_channels: int, kernel: int) -> int:
    """The cost of multiplying after it."""
    return large * channels * (kernel**2 * out_channels + cost.resize)
