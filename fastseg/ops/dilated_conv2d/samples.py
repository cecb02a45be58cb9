"""Inputs for the tests and benchmarks of dilated_conv2d."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import dilated_conv2d


def _sample(
    why: str,
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    layout: str = "contiguous",
    *,
    bias: bool = True,
    **arguments: Any,
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        x = make.map(*shape, layout=layout)
        b = make.tensor(weight[0]) if bias else None
        return {"x": x, "weight": make.tensor(*weight), "bias": b, **arguments}

    return Sample(why, inputs)


def _error(
    why: str,
    error: type[Exception],
    match: str,
    shape: tuple[int, ...] = (1, 4, 5, 5),
    weight: tuple[int, ...] = (4, 1, 3, 3),
    **arguments: Any,
) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        given = {"groups": 4, **arguments}
        return {"x": make.tensor(*shape), "weight": make.tensor(*weight), **given}

    return ErrorSample(why, inputs, error, match)


def _typed_error(why: str, match: str, **dtypes: torch.dtype) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        tensors = {"x": make.tensor(1, 4, 5, 5), "weight": make.tensor(4, 1, 3, 3)}
        tensors["bias"] = make.tensor(4)
        for name, dtype in dtypes.items():
            tensors[name] = tensors[name].to(dtype)
        return {**tensors, "groups": 4}

    return ErrorSample(why, inputs, TypeError, match)


def _workload(
    name: str, shape: tuple[int, ...], weight: tuple[int, ...], rate: int, groups: int = 1
) -> Workload:
    """A 3x3 convolution that keeps the size."""

    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        return {
            "x": make.map(*shape).contiguous(memory_format=memory_format),
            "weight": make.tensor(*weight, scale=(weight[1] * 9) ** -0.5),
            "padding": rate,
            "dilation": rate,
            "groups": groups,
        }

    def moved(inputs: dict[str, Any]) -> int:
        x, w = inputs["x"], inputs["weight"]
        out = x.shape[0] * weight[0] * shape[2] * shape[3]
        return (x.numel() + w.numel() + out) * x.element_size()

    # Taps in the padding are not counted: of each axis' 3 * size, 2 * rate fall outside.
    rows, columns = (size + 2 * max(0, size - rate) for size in shape[2:])
    flops = 2 * shape[0] * weight[0] * weight[1] * rows * columns
    return Workload(name, inputs, moved, lambda _: flops)


SAMPLES = OpSamples(
    function=dilated_conv2d,
    peer=F.conv2d,
    samples=(
        _sample("depthwise, dilation 1", (2, 20, 9, 11), (20, 1, 3, 3), padding=1, groups=20),
        _sample(
            "depthwise at rate 12: border regions with fewer taps",
            (1, 13, 33, 33),
            (13, 1, 3, 3),
            padding=12,
            dilation=12,
            groups=13,
        ),
        _sample(
            "depthwise, channels_last: vectors of channels and a rest",
            (2, 21, 11, 9),
            (21, 1, 3, 3),
            "channels_last",
            padding=4,
            dilation=4,
            groups=21,
        ),
        _sample(
            "channels_last, more channels than one task takes",
            (1, 70, 31, 120),
            (70, 1, 3, 3),
            "channels_last",
            padding=(14, 2),
            dilation=(14, 2),
            groups=70,
        ),
        _sample(
            "depthwise, everything differs between the axes",
            (2, 9, 17, 15),
            (9, 1, 3, 5),
            stride=(2, 3),
            padding=(4, 1),
            dilation=(4, 2),
            groups=9,
        ),
        _sample(
            "stride and dilation share a factor: some inputs are never read",
            (1, 10, 15, 12),
            (10, 1, 3, 3),
            "channels_last",
            stride=2,
            padding=2,
            dilation=2,
            groups=10,
        ),
        _sample(
            "even kernel without padding",
            (1, 9, 8, 9),
            (9, 1, 2, 4),
            stride=2,
            dilation=(3, 1),
            groups=9,
        ),
        _sample("1x1 kernel", (3, 8, 6, 6), (8, 1, 1, 1), bias=False, groups=8),
        _sample("more taps than one pass", (1, 17, 12, 14), (17, 1, 7, 5), padding=3, groups=17),
        _sample(
            "dilation larger than the map: one tap inside",
            (2, 24, 5, 5),
            (24, 1, 3, 3),
            padding=9,
            dilation=9,
            groups=24,
        ),
        _sample(
            "outputs wholly in the padding",
            (1, 12, 5, 6),
            (12, 1, 3, 3),
            stride=3,
            padding=7,
            groups=12,
        ),
        _sample(
            "rows cut into chunks, one channel", (1, 1, 40, 21), (1, 1, 3, 3), padding=1, groups=1
        ),
        _sample(
            "rows cut into chunks, stride 2, channels_last",
            (1, 19, 42, 13),
            (19, 1, 3, 3),
            "channels_last",
            stride=2,
            padding=2,
            dilation=2,
            groups=19,
        ),
        _sample("one pixel", (2, 19, 1, 1), (19, 1, 3, 3), padding=1, groups=19),
        _sample("dense in no layout", (2, 9, 6, 7), (9, 1, 3, 3), "strided", padding=1, groups=9),
        _sample("depth multiplier", (2, 6, 9, 8), (12, 1, 3, 3), padding=2, dilation=2, groups=6),
        _sample("dense", (2, 8, 13, 11), (12, 8, 3, 3), padding=6, dilation=6),
        _sample(
            "dense, channels_last",
            (2, 8, 13, 11),
            (12, 8, 3, 3),
            "channels_last",
            padding=2,
            dilation=2,
        ),
        _sample("dense, strided map", (1, 6, 9, 8), (5, 6, 3, 3), "strided", stride=2, padding=1),
        _sample("grouped", (1, 8, 9, 9), (12, 4, 3, 3), padding=3, dilation=3, groups=2),
        _sample("same, odd padding", (1, 8, 9, 7), (8, 1, 2, 4), padding="same", groups=8),
        _sample("valid", (1, 8, 9, 7), (8, 1, 3, 3), padding="valid", dilation=2, groups=8),
        _sample("batch 0", (0, 8, 5, 5), (8, 1, 3, 3), padding=1, groups=8),
        _sample("batch 0, dense", (0, 4, 5, 5), (6, 4, 3, 3), padding=1),
    ),
    errors=(
        _error("rank", ValueError, "x has shape", (4, 5, 5)),
        _error("rank of the weight", ValueError, "weight has shape", weight=(4, 3, 3)),
        _error("empty kernel", ValueError, "weight has shape", weight=(4, 1, 0, 3)),
        _error("empty map", ValueError, "at least 1", (1, 4, 0, 5)),
        _error("groups do not divide", ValueError, "groups is 3", groups=3),
        _error("groups 0", ValueError, "groups is 0", groups=0),
        _error("channels of weight", ValueError, "weight has shape", weight=(4, 2, 3, 3)),
        _error("stride 0", ValueError, "stride is", stride=0),
        _error("negative stride", ValueError, "stride is", stride=(1, -1)),
        _error("dilation 0", ValueError, "dilation is", dilation=0),
        _error("negative dilation", ValueError, "dilation is", dilation=-2),
        _error("huge dilation", ValueError, "dilation is", dilation=2**40),
        _error("negative padding", ValueError, "padding is", padding=-1),
        _error("three strides", ValueError, "stride is", stride=(1, 1, 1)),
        _error("unknown padding", ValueError, "padding is 'full'", padding="full"),
        _error("same with a stride", ValueError, "stride", padding="same", stride=2),
        _error("kernel larger than the map", ValueError, "too few", dilation=3),
        ErrorSample(
            "shape of bias",
            lambda make: {
                "x": make.tensor(1, 4, 5, 5),
                "weight": make.tensor(4, 1, 3, 3),
                "bias": make.tensor(3),
                "groups": 4,
            },
            ValueError,
            "bias has shape",
        ),
        _typed_error("integer map", "x has dtype", x=torch.int32),
        _typed_error("weight of another dtype", "weight has dtype", weight=torch.float64),
        _typed_error("bias of another dtype", "bias has dtype", bias=torch.bfloat16),
    ),
    differentiable=("x", "weight", "bias"),
    linear_in="x",
    double_backward=True,
    cpu_workloads=(
        _workload("W3a N1 depthwise r4 C960 65x65", (1, 960, 65, 65), (960, 1, 3, 3), 4, 960),
        _workload("W3b N1 depthwise r12 C2048 33x33", (1, 2048, 33, 33), (2048, 1, 3, 3), 12, 2048),
        _workload("W3a' N1 depthwise r1 C960 65x65", (1, 960, 65, 65), (960, 1, 3, 3), 1, 960),
        _workload("W2 N1 dense r18 2048->256 33x33", (1, 2048, 33, 33), (256, 2048, 3, 3), 18),
    ),
    gpu_workloads=(
        _workload("W1a N8 dense r4 512->512 90x90", (8, 512, 90, 90), (512, 512, 3, 3), 4),
        _workload("W1b N8 dense r2 256->256 90x90", (8, 256, 90, 90), (256, 256, 3, 3), 2),
        _workload("W2 N8 dense r18 2048->256 33x33", (8, 2048, 33, 33), (256, 2048, 3, 3), 18),
        _workload("W3a N16 depthwise r4 C960 65x65", (16, 960, 65, 65), (960, 1, 3, 3), 4, 960),
        _workload(
            "W3b N16 depthwise r12 C2048 33x33", (16, 2048, 33, 33), (2048, 1, 3, 3), 12, 2048
        ),
    ),
)
