"""Inputs for the tests and benchmarks of upsample_taps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_taps


def _peer(
    x: torch.Tensor,
    x2: torch.Tensor | None = None,
    x3: torch.Tensor | None = None,
    x4: torch.Tensor | None = None,
    added: torch.Tensor | None = None,
    *,
    size: tuple[int, int],
    kernel: int,
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    corners = align_corners if mode == "bilinear" else None
    total = added
    for source in (x, x2, x3, x4):
        if source is None:
            continue
        large = F.interpolate(source, size, mode=mode, align_corners=corners)
        # Each tap of a kernel is one input channel of a convolution by shifts.
        channels = source.shape[1] // kernel**2
        shifts = torch.eye(kernel**2, dtype=x.dtype, device=x.device)
        shifts = shifts.view(1, kernel**2, kernel, kernel)
        stacked = large.unflatten(1, (kernel**2, channels)).transpose(1, 2).flatten(0, 1)
        summed = F.conv2d(stacked, shifts, padding=kernel // 2)[:, 0].unflatten(0, (-1, channels))
        total = summed if total is None else total + summed
    assert total is not None
    return total


def _sample(
    why: str,
    channels: int,
    *sources: tuple[int, int],
    size: tuple[int, int],
    kernel: int = 3,
    layout: str = "contiguous",
    batch: int = 2,
    added: bool = False,
    **arguments: Any,
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        taps = kernel**2 * channels
        maps = [make.map(batch, taps, *source, layout=layout) for source in sources]
        values: dict[str, Any] = dict(zip(("x", "x2", "x3", "x4"), maps, strict=False))
        if added:
            values["added"] = make.map(batch, channels, *size, layout=layout)
        return {**values, "size": size, "kernel": kernel, **arguments}

    return Sample(why, inputs)


def _error(why: str, error: type[Exception], match: str, **changed: Any) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        values: dict[str, Any] = {"x": (1, 18, 4, 5), "size": (8, 9), "kernel": 3, **changed}
        return {k: make.tensor(*v) if k in _MAPS else v for k, v in values.items()}

    return ErrorSample(why, inputs, error, match)


_MAPS = ("x", "x2", "x3", "x4", "added")


def _typed_error(why: str, match: str, **dtypes: torch.dtype) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        values = {"x": make.tensor(1, 18, 4, 5), "added": make.tensor(1, 2, 8, 9)}
        cast = {k: v.to(dtypes.get(k, v.dtype)) for k, v in values.items()}
        return {**cast, "size": (8, 9), "kernel": 3}

    return ErrorSample(why, inputs, TypeError, match)


def _workload(
    name: str,
    channels: int,
    size: tuple[int, int],
    kernel: int,
    *sources: tuple[int, int],
    n: int = 1,
) -> Workload:
    """Added to a map."""
    taps, pixels = n * kernel**2 * channels, n * channels * size[0] * size[1]

    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        maps = [make.map(n, taps // n, *s).contiguous(memory_format=memory_format) for s in sources]
        values: dict[str, Any] = dict(zip(("x", "x2", "x3", "x4"), maps, strict=False))
        values["added"] = make.map(n, channels, *size).contiguous(memory_format=memory_format)
        return {**values, "size": size, "kernel": kernel}

    moved = 2 * pixels + sum(taps * h * w for h, w in sources)
    flops = 4 * kernel * len(sources) * pixels + sum(4 * taps * h * size[1] for h, w in sources)
    return Workload(name, inputs, lambda v: moved * v["x"].element_size(), lambda _: flops)


SAMPLES = OpSamples(
    function=upsample_taps,
    peer=_peer,
    samples=(
        _sample("integer scale", 5, (5, 6), size=(10, 12)),
        _sample(
            "corners aligned, channels_last: vectors of channels and a rest",
            21,
            (5, 4),
            size=(17, 13),
            layout="channels_last",
            align_corners=True,
        ),
        _sample("nearest", 4, (5, 7), size=(10, 17), mode="nearest"),
        _sample(
            "four sources of different sizes and an added map, channels_last",
            9,
            (6, 5),
            (3, 3),
            (1, 1),
            (11, 9),
            size=(12, 10),
            layout="channels_last",
            added=True,
        ),
        _sample("no shift: 1x1 kernel, two sources", 7, (4, 5), (2, 3), size=(9, 11), kernel=1),
        _sample(
            "1x1 kernel, channels_last, added",
            16,
            (4, 6),
            size=(16, 24),
            kernel=1,
            layout="channels_last",
            added=True,
        ),
        _sample("size kept", 3, (6, 5), size=(6, 5)),
        _sample("down in one axis, up in the other", 3, (13, 4), size=(5, 11)),
        _sample("down far: source rows that nothing reads", 2, (23, 19), size=(3, 4)),
        _sample("down, nearest", 2, (13, 11), size=(4, 5), mode="nearest"),
        _sample("up from one pixel", 3, (1, 1), size=(7, 6)),
        _sample("down to one pixel", 3, (4, 5), size=(1, 1), align_corners=True),
        _sample("narrower than the kernel", 3, (3, 1), size=(5, 2)),
        _sample("dense in no layout", 3, (4, 5), size=(9, 8), layout="strided", added=True),
        _sample("one channel", 1, (5, 4), size=(9, 8), kernel=1, layout="channels_last"),
        _sample(
            "several segments and chunks",
            300,
            (9, 21),
            size=(35, 40),
            batch=1,
            layout="channels_last",
        ),
        _sample("batch 0", 3, (4, 4), size=(8, 8), batch=0, added=True),
    ),
    errors=(
        _error("rank", ValueError, "x has shape", x=(18, 4, 5)),
        _error("empty map", ValueError, "at least 1", x=(1, 18, 0, 5)),
        _error("channels that are no taps", ValueError, "multiple of 9", x=(1, 17, 4, 5)),
        _error("kernel 5", ValueError, "kernel is 5", kernel=5),
        _error("fractional kernel", TypeError, "kernel is 3.0", kernel=3.0),
        _error("size 0", ValueError, "size is", size=(0, 4)),
        _error("fractional size", TypeError, "size is", size=(4, 4.5)),
        _error("unknown mode", ValueError, "mode is 'bicubic'", mode="bicubic"),
        _error("nearest corners", ValueError, "align_corners", mode="nearest", align_corners=True),
        _error("taps of the second", ValueError, "x2 has shape", x2=(1, 9, 4, 5)),
        _error("batch of the fourth", ValueError, "x4 has shape", x4=(2, 18, 4, 5)),
        _error("shape of added", ValueError, "added has shape", added=(1, 2, 8, 8)),
        _typed_error("integer map", "x has dtype", x=torch.int32),
        _typed_error("added of another dtype", "added has dtype", added=torch.float64),
    ),
    differentiable=("x", "x2", "x3", "x4", "added"),
    double_backward=True,
    cpu_workloads=(  # the first is the one of `bench quick`: the smallest
        _workload("DLv3+ C256 17->65 3x3", 256, (65, 65), 3, (17, 17)),
        _workload("DLv3+ C256 33->129 3x3", 256, (129, 129), 3, (33, 33)),
        _workload("W12 C512 64 32 16->128 3x3", 512, (128, 128), 3, (64, 64), (32, 32), (16, 16)),
        _workload("W7 C768 64 32 16->128 1x1", 768, (128, 128), 1, (64, 64), (32, 32), (16, 16)),
    ),
    gpu_workloads=(
        _workload(
            "N8 W12 C512 64 32 16->128 3x3", 512, (128, 128), 3, (64, 64), (32, 32), (16, 16), n=8
        ),
        _workload("N8 DLv3+ C256 33->129 3x3", 256, (129, 129), 3, (33, 33), n=8),
    ),
)
