"""Inputs for the tests and benchmarks of upsample_bilinear."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_bilinear


def _peer(
    x: torch.Tensor, size: Any = None, scale_factor: Any = None, align_corners: bool = False
) -> torch.Tensor:
    return F.interpolate(x, size, scale_factor, mode="bilinear", align_corners=align_corners)


def _peer_out(
    x: torch.Tensor, size: tuple[int, int], align_corners: bool, out: torch.Tensor
) -> torch.Tensor:
    return torch.ops.aten.upsample_bilinear2d.out(x, size, align_corners, out=out)


def _sample(
    why: str, shape: tuple[int, ...], layout: str = "contiguous", **arguments: Any
) -> Sample:
    return Sample(why, lambda make: {"x": make.map(*shape, layout=layout), **arguments})


def _error(
    why: str, error: type[Exception], match: str, shape: tuple[int, ...], **arguments: Any
) -> ErrorSample:
    return ErrorSample(why, lambda make: {"x": make.tensor(*shape), **arguments}, error, match)


def _workload(
    name: str, shape: tuple[int, ...], size: tuple[int, int], align_corners: bool = False
) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        x = make.map(*shape).contiguous(memory_format=memory_format)
        return {"x": x, "size": size, "align_corners": align_corners}

    pixels = shape[0] * shape[1] * size[0] * size[1]

    def moved(inputs: dict[str, Any]) -> int:
        return (inputs["x"].numel() + pixels) * inputs["x"].element_size()

    return Workload(name, inputs, moved, lambda _: 6 * pixels, ("forward", "backward"))


SAMPLES = OpSamples(
    function=upsample_bilinear,
    peer=_peer,
    peer_out=_peer_out,
    samples=(
        _sample("integer scale, half-pixel centres", (2, 5, 6, 7), size=(24, 28)),
        _sample(
            "integer scale, corners aligned: 4k+1 sizes",
            (1, 3, 9, 9),
            size=(33, 33),
            align_corners=True,
        ),
        _sample("odd ratio, rows and columns differ", (2, 3, 11, 17), size=(29, 23)),
        _sample("down in one axis, up in the other", (1, 4, 33, 9), size=(8, 40)),
        _sample(
            "down by more than a vector spans", (1, 2, 70, 300), size=(3, 5), align_corners=True
        ),
        _sample("down to one pixel", (2, 3, 7, 9), size=(1, 1)),
        _sample(
            "down to one pixel, corners aligned", (2, 3, 7, 9), size=(1, 1), align_corners=True
        ),
        _sample("up from one pixel", (2, 3, 1, 1), size=(6, 5)),
        _sample("size kept", (2, 3, 6, 5), size=(6, 5)),
        _sample(
            "channels_last, channels fill vectors and leave a rest",
            (2, 19, 5, 9),
            "channels_last",
            size=(20, 36),
        ),
        _sample(
            "channels_last, fewer channels than a vector",
            (2, 3, 9, 5),
            "channels_last",
            size=(17, 21),
        ),
        _sample(
            "channels_last, down", (1, 20, 18, 21), "channels_last", size=(7, 8), align_corners=True
        ),
        _sample("one channel in channels_last", (2, 1, 5, 6), "channels_last", size=(9, 13)),
        _sample("dense in no layout", (2, 3, 5, 6), "strided", size=(11, 13)),
        _sample(
            "scale factor: sampling by the factor, not by the size ratio",
            (1, 2, 10, 7),
            scale_factor=(1.57, 2.3),
        ),
        _sample("scale factor below one", (1, 2, 21, 17), scale_factor=0.37),
        _sample("scale factor that keeps the size", (1, 2, 10, 10), scale_factor=1.04),
        _sample("wide enough for every chunk and vector path", (1, 2, 40, 70), size=(160, 283)),
        _sample("batch 0", (0, 3, 5, 5), size=(10, 10)),
    ),
    errors=(
        _error("rank", ValueError, "x has shape", (3, 5, 5), size=(4, 4)),
        _error("empty map", ValueError, "at least 1", (1, 3, 0, 5), size=(4, 4)),
        _error("size 0", ValueError, "size is", (1, 3, 5, 5), size=(0, 4)),
        _error("negative size", ValueError, "size is", (1, 3, 5, 5), size=(4, -1)),
        _error("three sizes", ValueError, "size has 3", (1, 3, 5, 5), size=(4, 4, 4)),
        _error("fractional size", TypeError, "size is 4.5, exp", (1, 3, 5, 5), size=4.5),
        _error("fractional width", TypeError, "size is", (1, 3, 5, 5), size=(4, 4.5)),
        _error("neither size nor factor", ValueError, "exactly one", (1, 3, 5, 5)),
        _error("both", ValueError, "exactly one", (1, 3, 5, 5), size=4, scale_factor=2.0),
        _error("infinite factor", ValueError, "finite", (1, 3, 5, 5), scale_factor=float("inf")),
        _error("negative factor", ValueError, "positive", (1, 3, 5, 5), scale_factor=-2.0),
        _error(
            "factor too small for a pixel", ValueError, "size is", (1, 3, 5, 5), scale_factor=0.1
        ),
        ErrorSample(
            "integer map",
            lambda make: {"x": torch.ones(1, 1, 4, 4, dtype=torch.int32), "size": 8},
            TypeError,
            "dtype",
        ),
    ),
    differentiable=("x",),
    linear_in="x",
    double_backward=True,
    cpu_workloads=(
        _workload("N1 C150 128->512", (1, 150, 128, 128), (512, 512)),
        _workload("N1 C256 33->129 corners", (1, 256, 33, 33), (129, 129), True),
        _workload("N1 C19 97->769 corners", (1, 19, 97, 97), (769, 769), True),
    ),
    gpu_workloads=(
        _workload("W4 N16 C256 33->129 corners", (16, 256, 33, 33), (129, 129), True),
        _workload("W5a N8 C19 97->769 corners", (8, 19, 97, 97), (769, 769), True),
        _workload("W5b N16 C150 128->512", (16, 150, 128, 128), (512, 512)),
    ),
)
