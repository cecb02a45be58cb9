"""Inputs for the tests and benchmarks of pyramid_pool."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import pyramid_pool


def _peer(x: torch.Tensor, bins: Any) -> torch.Tensor:
    return torch.cat([F.adaptive_avg_pool2d(x, b).flatten(2) for b in bins], 2)


def _sample(why: str, shape: tuple[int, ...], bins: Any, layout: str = "contiguous") -> Sample:
    return Sample(why, lambda make: {"x": make.map(*shape, layout=layout), "bins": bins})


def _error(
    why: str, error: type[Exception], match: str, shape: tuple[int, ...], bins: Any
) -> ErrorSample:
    return ErrorSample(why, lambda make: {"x": make.tensor(*shape), "bins": bins}, error, match)


def _workload(name: str, shape: tuple[int, ...], bins: tuple[int, ...]) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        return {"x": make.map(*shape).contiguous(memory_format=memory_format), "bins": bins}

    n, channels, height, width = shape
    cells = n * channels * sum(b * b for b in bins)
    pixels = n * channels * height * width

    def moved(inputs: dict[str, Any]) -> int:
        return (pixels + cells) * inputs["x"].element_size()

    return Workload(name, inputs, moved, lambda _: pixels + cells)


SAMPLES = OpSamples(
    function=pyramid_pool,
    peer=_peer,
    samples=(
        _sample("windows that meet", (2, 5, 12, 18), (1, 2, 3, 6)),
        _sample("windows that overlap, rows and columns differ", (2, 5, 11, 17), (1, 2, 3, 6)),
        _sample("one grid that is the whole map", (2, 3, 9, 7), (1,)),
        _sample("as many cells as pixels", (1, 3, 7, 7), (7,)),
        _sample("more cells than pixels in all, one bin twice", (1, 2, 5, 6), [5, 4, 5, 3, 1]),
        _sample("one pixel", (2, 11, 1, 1), (1,)),
        _sample("one column", (1, 3, 9, 1), (1, 1)),
        _sample("rows longer than two vectors, with a rest", (1, 2, 6, 43), (2, 5)),
        _sample("more planes than a vector has lanes, with a rest", (3, 7, 10, 9), (1, 2, 3, 6)),
        _sample("planes large enough to be split by rows", (1, 2, 300, 260), (1, 4)),
        _sample(
            "channels_last, channels fill vectors and leave a rest",
            (2, 77, 11, 9),
            (1, 2, 3, 6),
            "channels_last",
        ),
        _sample("channels_last, few channels", (2, 3, 9, 11), (1, 2, 3, 6), "channels_last"),
        _sample(
            "channels_last, large enough to be split by rows",
            (2, 300, 16, 17),
            (1, 2, 3, 6),
            "channels_last",
        ),
        _sample(
            "channels_last, few channels, split by rows",
            (1, 5, 150, 111),
            (1, 3, 8),
            "channels_last",
        ),
        _sample("one channel in channels_last", (2, 1, 6, 5), (1, 2), "channels_last"),
        _sample("dense in no layout", (2, 3, 5, 6), (1, 2, 3), "strided"),
        _sample("batch 0", (0, 3, 6, 6), (1, 2)),
    ),
    errors=(
        _error("rank", ValueError, "x has shape", (3, 5, 5), (1,)),
        _error("empty map", ValueError, "at least 1", (1, 3, 0, 5), (1,)),
        _error("no grid", ValueError, "bins is empty", (1, 3, 5, 5), ()),
        _error("bins larger than the map", ValueError, "5 x 9 pixels", (1, 3, 5, 9), (1, 6)),
        _error("bins larger than its width", ValueError, "smaller side", (1, 3, 9, 5), (1, 6)),
        _error("bin 0", ValueError, "at least 1", (1, 3, 5, 5), (1, 0)),
        _error("negative bin", ValueError, "at least 1", (1, 3, 5, 5), (-2,)),
        _error("fractional bin", TypeError, "sequence of integers", (1, 3, 5, 5), (1, 2.5)),
        _error("one number", TypeError, "sequence of integers", (1, 3, 5, 5), 3),
        ErrorSample(
            "integer map",
            lambda make: {"x": torch.ones(1, 1, 4, 4, dtype=torch.int32), "bins": (1, 2)},
            TypeError,
            "dtype",
        ),
    ),
    differentiable=("x",),
    linear_in="x",
    double_backward=True,
    cpu_workloads=(
        _workload("N2 C512 65x65 bins 1 2 3 6", (2, 512, 65, 65), (1, 2, 3, 6)),
        _workload("N1 C2048 90x90 bins 1 2 3 6", (1, 2048, 90, 90), (1, 2, 3, 6)),
        _workload("N4 C2048 16x16 bins 1 2 3 6", (4, 2048, 16, 16), (1, 2, 3, 6)),
    ),
    gpu_workloads=(_workload("W6a N8 C2048 90x90 bins 1 2 3 6", (8, 2048, 90, 90), (1, 2, 3, 6)),),
)
