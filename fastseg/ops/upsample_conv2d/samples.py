"""Inputs for the tests and benchmarks of upsample_conv2d: parts as x, x2, ... x5."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_conv2d

NAMES = ("x", "x2", "x3", "x4", "x5")
Map = tuple[int, int, int]  # channels, height, width


def _with_names(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function` of the parts as a function of keywords."""

    def of_names(**arguments: Any) -> torch.Tensor:
        parts = [arguments.pop(name) for name in NAMES if name in arguments]
        return function(parts, **arguments)

    return of_names


def _peer(
    parts: list[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    size: tuple[int, int] | None = None,
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    if size is None:
        height, width = max((p.shape[2:] for p in parts), key=lambda s: s[0] * s[1])
        size = (height, width)
    corners = align_corners if mode == "bilinear" else None
    resized = [
        p if p.shape[2:] == size else F.interpolate(p, size=size, mode=mode, align_corners=corners)
        for p in parts
    ]
    stacked = torch.cat(resized, 1) if len(resized) > 1 else resized[0]
    return F.conv2d(stacked, weight, bias, padding=weight.shape[2] // 2)


def _sample(
    why: str,
    *parts: Map,
    out: int,
    kernel: int = 3,
    batch: int = 2,
    layout: str = "contiguous",
    bias: bool = True,
    **arguments: Any,
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        maps = [make.map(batch, *part, layout=layout) for part in parts]
        channels = sum(part[0] for part in parts)
        return {
            **dict(zip(NAMES, maps, strict=False)),
            "weight": make.tensor(out, channels, kernel, kernel, scale=channels**-0.5 / kernel),
            "bias": make.tensor(out) if bias else None,
            **arguments,
        }

    return Sample(why, inputs)


def _error(why: str, error: type[Exception], match: str, **changed: Any) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        values = {"x": (1, 2, 8, 9), "x2": (1, 3, 4, 5), "weight": (4, 5, 3, 3), **changed}
        tensors = (*NAMES, "weight", "bias")
        return {k: make.tensor(*v) if k in tensors else v for k, v in values.items()}

    return ErrorSample(why, inputs, error, match)


def _workload(
    name: str, out: int, kernel: int, *parts: Map, align_corners: bool = False, n: int
) -> Workload:
    channels = sum(part[0] for part in parts)
    height, width = parts[0][1:]  # the part of the final size comes first

    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        maps = [make.map(n, *p).contiguous(memory_format=memory_format) for p in parts]
        weight = make.tensor(out, channels, kernel, kernel, scale=channels**-0.5 / kernel)
        return {
            **dict(zip(NAMES, maps, strict=False)),
            "weight": weight.contiguous(memory_format=memory_format),
            "size": (height, width),
            "align_corners": align_corners,
        }

    def moved(values: dict[str, Any]) -> int:
        numbers = sum(v.numel() for v in values.values() if isinstance(v, torch.Tensor))
        return (numbers + n * out * height * width) * values["x"].element_size()

    flops = 2 * n * out * kernel**2 * sum(c * h * w for c, h, w in parts)
    return Workload(name, inputs, moved, lambda _: flops)


def _workloads(n: int, pyramid: int) -> tuple[Workload, ...]:
    """The heads that the op was made for. The first is that of `bench quick`: the smallest.

    Args:
        n: batch size.
        pyramid: side of the map that pyramid pooling is beside.
    """
    return (
        _workload(
            f"N{n} DeepLabV3+ decoder 48+256->256 3x3 33->129",
            256,
            3,
            (48, 129, 129),
            (256, 33, 33),
            align_corners=True,
            n=n,
        ),
        _workload(
            f"N{n} W7 SegFormer D768 folded, 64..512->768 1x1 @128",
            768,
            1,
            (64, 128, 128),
            (128, 64, 64),
            (320, 32, 32),
            (512, 16, 16),
            n=n,
        ),
        _workload(
            f"N{n} W6c PSP bottleneck 4096->512 3x3 @{pyramid}",
            512,
            3,
            (2048, pyramid, pyramid),
            *[(512, b, b) for b in (1, 2, 3, 6)],
            n=n,
        ),
        _workload(
            f"N{n} W12 UPerNet fpn_bottleneck 4x512->512 3x3 @128",
            512,
            3,
            (512, 128, 128),
            (512, 64, 64),
            (512, 32, 32),
            (512, 16, 16),
            n=n,
        ),
    )


SAMPLES = OpSamples(
    function=_with_names(upsample_conv2d),
    peer=_with_names(_peer),
    samples=(
        _sample("one part, x2, low resolution", (40, 5, 6), out=24, size=(10, 12)),
        _sample("1x1, low and full resolution", (8, 9, 7), (40, 4, 3), out=20, kernel=1),
        _sample(
            "every route: kept, low, resized before, channels_last",
            (3, 16, 12),
            (64, 4, 4),
            (2, 8, 9),
            out=33,
            layout="channels_last",
        ),
        _sample(
            "corners aligned, odd sizes, channels_last",
            (16, 17, 13),
            (48, 5, 4),
            out=17,
            layout="channels_last",
            align_corners=True,
        ),
        _sample("nearest", (8, 10, 17), (64, 5, 7), out=16, mode="nearest"),
        _sample("nearest, doubled beside a skip", (7, 8, 6), (6, 4, 3), out=9, mode="nearest"),
        _sample("nearest, doubled alone", (6, 3, 5), out=9, mode="nearest", size=(6, 10)),
        _sample(
            "nearest, 1x1, not the part's ratio",
            (80, 5, 7),
            out=9,
            kernel=1,
            mode="nearest",
            size=(12, 19),
        ),
        _sample(
            "the pyramid's bins",
            (32, 12, 12),
            (16, 1, 1),
            (16, 2, 2),
            (16, 3, 3),
            (16, 6, 6),
            out=16,
            bias=False,
        ),
        _sample(
            "low resolution only, 1x1",
            (64, 1, 1),
            (64, 6, 4),
            (48, 2, 3),
            out=10,
            kernel=1,
            size=(15, 14),
        ),
        _sample("full resolution only", (5, 6, 7), (4, 6, 7), out=3),
        _sample("down: resized before", (8, 13, 11), out=4, size=(5, 6)),
        _sample("down in one axis, up in the other", (64, 9, 4), out=16, size=(6, 40)),
        _sample("too few channels to pay", (1, 4, 4), out=8, size=(8, 8)),
        _sample("to one pixel", (6, 1, 1), (5, 3, 4), out=7, size=(1, 1)),
        _sample("one channel out", (64, 4, 5), (8, 16, 20), out=1),
        _sample("dense in no layout", (64, 4, 5), (8, 16, 20), out=12, layout="strided"),
        _sample("batch 0", (64, 4, 5), (8, 16, 20), out=12, batch=0),
    ),
    errors=(
        _error("rank", ValueError, r"parts\[0\] has shape", x=(2, 8, 9)),
        _error("empty map", ValueError, r"parts\[1\] .* at least 1", x2=(1, 3, 0, 5)),
        _error("batch", ValueError, r"parts\[1\] has batch size 2", x2=(2, 3, 4, 5)),
        _error("channels of weight", ValueError, "weight has shape", weight=(4, 6, 3, 3)),
        _error("kernel 5", ValueError, "k = 1 or 3", weight=(4, 5, 5, 5)),
        _error("kernel 1x3", ValueError, "k = 1 or 3", weight=(4, 5, 1, 3)),
        _error("shape of bias", ValueError, "bias has shape", bias=(3,)),
        _error("size 0", ValueError, "size is", size=(0, 4)),
        _error("fractional size", TypeError, "size is", size=4.5),
        _error("unknown mode", ValueError, "mode is 'area'", mode="area"),
        _error("nearest corners", ValueError, "align_corners", mode="nearest", align_corners=True),
        ErrorSample(
            "weight of another dtype",
            lambda make: {"x": make.tensor(1, 2, 4, 4), "weight": torch.ones(4, 2, 1, 1).double()},
            TypeError,
            "weight has dtype",
        ),
        ErrorSample(
            "integer map",
            lambda make: {"x": torch.ones(1, 2, 4, 4).int(), "weight": make.tensor(4, 2, 1, 1)},
            TypeError,
            "dtype",
        ),
    ),
    differentiable=(*NAMES, "weight", "bias"),
    double_backward=True,
    cpu_workloads=_workloads(n=1, pyramid=60),
    gpu_workloads=_workloads(n=8, pyramid=90),
)
