"""The workloads whose memory traffic is counted, at their real sizes (benchmarks/NOTES.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch

from fastseg.ops.dilated_conv2d import native as dilated_conv2d
from fastseg.ops.pyramid_pool import native as pyramid_pool
from fastseg.ops.upsample_argmax import native as upsample_argmax
from fastseg.ops.upsample_bilinear import native as upsample_bilinear
from fastseg.ops.upsample_cross_entropy import native_cuda as upsample_cross_entropy
from fastseg.ops.upsample_taps import native as upsample_taps

BF16, F32 = torch.bfloat16, torch.float32


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload and how much may be sent.

    Attributes:
        run: calls a function of a native backend.
        kernel: the name of the kernel that is counted, without template arguments.
        loads, stores: sectors sent over sectors needed, at most.
        conflicts: wavefronts of shared memory over those without a conflict, at most.
        partial: share of the sectors stored that is not whole, at most.
    """

    name: str
    run: Callable[[], Any]
    kernel: str
    loads: float
    stores: float
    conflicts: float
    partial: float

    def __str__(self) -> str:
        return self.name


def _map(n: int, c: int, h: int, w: int, last: bool, dtype: torch.dtype = BF16) -> torch.Tensor:
    # Zeros: branches depend on the values, and memory that nobody wrote holds any.
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.zeros(n, c, h, w, dtype=dtype).contiguous(memory_format=layout)


def _bilinear(n: int, c: int, low: int, high: int, corners: bool, last: bool, back: bool) -> Any:
    if back:
        grad = _map(n, c, high, high, last)
        return upsample_bilinear.backward(grad, [low, low], corners, None, None)
    return upsample_bilinear.forward(_map(n, c, low, low, last), [high, high], corners, None, None)


def _depthwise(n: int, c: int, size: int, rate: int, back: bool) -> Any:
    x, weight = _map(n, c, size, size, True), torch.empty(c, 1, 3, 3, dtype=BF16)
    geometry: Any = ([1, 1], [rate, rate], [rate, rate], c)
    if back:
        return dilated_conv2d.backward(x, x, weight, *geometry, [True, True, False])
    return dilated_conv2d.forward(x, weight, None, *geometry)


def _pool(last: bool, back: bool) -> Any:
    if back:
        cells = torch.empty(8, 2048, 50, dtype=BF16)
        return pyramid_pool.backward(cells, [90, 90], [1, 2, 3, 6], last)
    return pyramid_pool.forward(_map(8, 2048, 90, 90, last), [1, 2, 3, 6])


def _argmax(n: int, c: int, low: tuple[int, int], size: list[int], last: bool = False) -> Any:
    return upsample_argmax.forward(_map(n, c, *low, last), size, False)


def _loss(n: int, c: int, low: int, high: int, corners: bool, back: bool) -> Any:
    logits = _map(n, c, low, low, False, F32)
    # Regions of 16 x 16 pixels, as labels have them.
    at = torch.arange(high) // 16
    target = ((at[:, None] * 7 + at * 3) % c).expand(n, -1, -1).contiguous()
    if back:
        sums = torch.full(target.shape, 3.0)
        total = torch.full((), 1e6, dtype=torch.float64)
        return upsample_cross_entropy.backward(
            torch.ones(()), total, sums, logits, target, None, 255, "mean", 0.0, corners
        )
    return upsample_cross_entropy.forward(
        logits, target, None, 255, "mean", 0.0, corners, with_sums=True
    )


def _taps(back: bool) -> Any:
    if back:
        return upsample_taps.backward(_map(8, 512, 128, 128, True), [64, 64], True, 3, False, False)
    sources = [_map(8, 9 * 512, s, s, True) for s in (64, 32, 16)]
    return upsample_taps.forward(*sources, None, None, [128, 128], 3, False, False)


def _case(name: str, kernel: str, limits: tuple[float, ...], function: Any, *args: Any) -> Case:
    return Case(name, functools.partial(function, *args), f"{kernel}_kernel", *limits)


UP, DOWN = "upsample_bilinear_fwd", "upsample_bilinear_bwd"
MARCH, POOL = "dilated_conv2d_fwd_bwd_march", "pyramid_pool"
LOSS, ARGMAX, TAPS = "upsample_cross_entropy", "upsample_argmax_fwd", "upsample_taps"
W5B, W4 = (16, 150, 128, 512, False, False), (16, 256, 33, 129, True, True)
W5A = (8, 19, 97, 769, True, False)
W8A, W8B = (8, 19, 97, 769, True), (16, 150, 128, 512, False)

# Loads, stores, conflicts, share of partial stores: a little above what was counted.
CASES = (
    _case("W5b bilinear fwd", UP, (1.2, 1.05, 1.1, 0.0), _bilinear, *W5B, False),
    _case("W5b bilinear bwd", DOWN, (1.1, 1.05, 1.5, 0.0), _bilinear, *W5B, True),
    _case("W4 bilinear fwd", UP, (1.4, 1.05, 1.1, 0.0), _bilinear, *W4, False),
    _case("W4 bilinear bwd", DOWN, (1.1, 1.05, 1.4, 0.0), _bilinear, *W4, True),
    _case("W5a bilinear bwd, ragged", DOWN, (1.2, 1.7, 1.4, 0.7), _bilinear, *W5A, True),
    _case("W3a depthwise fwd", MARCH, (1.1, 1.05, 2.6, 0.0), _depthwise, 16, 960, 65, 4, False),
    _case("W3a depthwise bwd", MARCH, (1.1, 1.05, 2.1, 0.0), _depthwise, 16, 960, 65, 4, True),
    _case("W3b depthwise fwd", MARCH, (1.1, 1.05, 2.6, 0.0), _depthwise, 16, 2048, 33, 12, False),
    _case("W6a pool fwd, NHWC", f"{POOL}_fwd_packs", (1.1, 1.05, 1, 0), _pool, True, False),
    _case("W6a pool bwd, NHWC", f"{POOL}_bwd_packs", (2.0, 1.05, 1, 0), _pool, True, True),
    _case("W6a pool fwd, NCHW", f"{POOL}_fwd_tiles", (1.1, 2.0, 1.05, 1), _pool, False, False),
    _case("W8a loss fwd", f"{LOSS}_fwd", (1.3, 1.15, 1.6, 0.25), _loss, *W8A, False),
    _case("W8a loss bwd", f"{LOSS}_bwd", (1.4, 1.9, 2, 1), _loss, *W8A, True),
    _case("W8b loss fwd", f"{LOSS}_fwd", (1.4, 1.15, 1.5, 0.25), _loss, *W8B, False),
    _case("W8b loss bwd", f"{LOSS}_bwd", (1.4, 1.6, 1.5, 0.7), _loss, *W8B, True),
    _case("W9a argmax", ARGMAX, (1.8, 1.2, 1.8, 0.4), _argmax, 1, 19, (128, 256), [1024, 2048]),
    _case("W9b argmax", ARGMAX, (1.8, 1.31, 1.6, 0.6), _argmax, 16, 150, (128, 128), [512, 512]),
    _case("W12 taps fwd", f"{TAPS}_fwd", (1.1, 1.05, 1.05, 0), _taps, False),
    _case("W12 taps bwd, from 64", f"{TAPS}_bwd", (1.1, 1.05, 2.5, 0), _taps, True),
)
