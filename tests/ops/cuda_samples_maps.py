"""Samples for the CUDA kernels of pyramid_pool, dilated_conv2d, upsample_taps, upsample_bilinear
and window_filter."""

from __future__ import annotations

from typing import Any

import torch

from fastseg.testing import Maker, Sample


def _misaligned(make: Maker, n: int, c: int, h: int, w: int) -> torch.Tensor:
    """A channels_last map one number behind a boundary of 16 bytes."""
    flat = make.tensor(n * c * h * w + 1)[1:]
    return flat.view(n, h, w, c).permute(0, 3, 1, 2)


def _map(make: Maker, shape: tuple[int, ...], layout: str) -> torch.Tensor:
    return _misaligned(make, *shape) if layout == "misaligned" else make.map(*shape, layout=layout)


def _pool(why: str, shape: tuple[int, ...], bins: tuple[int, ...], layout: str) -> Sample:
    return Sample(why, lambda make: {"x": _map(make, shape, layout), "bins": bins})


def _conv(
    why: str,
    shape: tuple[int, ...],
    kernel: tuple[int, int],
    layout: str,
    bias: bool = True,
    **options: Any,
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        c = shape[1]
        x, weight = _map(make, shape, layout), make.tensor(c, 1, *kernel)
        values = {"x": x, "weight": weight, "bias": make.tensor(c) if bias else None}
        return {**values, "groups": c, **options}

    return Sample(why, inputs)


def _taps(
    why: str,
    channels: int,
    source: tuple[int, int],
    size: tuple[int, int],
    layout: str,
    kernel: int = 3,
    **options: Any,
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        x = _map(make, (1, channels * kernel**2, *source), layout)
        return {"x": x, "size": size, "kernel": kernel, **options}

    return Sample(why, inputs)


def _window(
    why: str, shape: tuple[int, ...], dims: int, radius: int, layout: str = "contiguous"
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        n, _, h, w = shape
        values, features = make.map(*shape, layout=layout), make.map(n, dims, h, w, scale=0.5)
        return {"values": values, "features": features, "radius": radius}

    return Sample(why, inputs)


POOL = (
    _pool("packs of channels, rows cut", (2, 64, 21, 13), (1, 2, 3, 6), "channels_last"),
    _pool("packs, column segments cut", (1, 16, 3, 70), (1,), "channels_last"),
    _pool("channels of packs, misaligned", (1, 16, 5, 6), (1, 2, 3), "misaligned"),
    _pool("rows longer than a tile", (1, 2, 3, 1100), (1, 3), "contiguous"),
    _pool("rows longer than a tile, channels_last", (1, 3, 2, 420), (1, 2), "channels_last"),
    _pool("more planes than a tile", (1, 600, 2, 3), (1, 2), "contiguous"),
    _pool("more channels than a tile", (1, 1101, 1, 3), (1, 1), "channels_last"),
    _pool("six grids", (1, 8, 13, 7), (1, 2, 3, 4, 5, 6), "channels_last"),
)
CONV = (
    _conv("vectors, two tiles", (2, 68, 9, 10), (3, 3), "channels_last", padding=2, dilation=2),
    _conv("vectors, misaligned", (1, 8, 7, 6), (3, 3), "misaligned", padding=1),
    _conv("vectors, stride 2", (1, 68, 9, 7), (3, 3), "channels_last", stride=2, padding=1),
    _conv("vectors, sums in three passes", (1, 8, 7, 9), (5, 5), "channels_last", padding=2),
    _conv("more weights than are staged", (1, 64, 4, 3), (11, 11), "channels_last", padding=5),
    _conv("no padding", (1, 8, 9, 8), (3, 3), "channels_last", dilation=2),
    _conv("padding beyond the kernel", (1, 4, 5, 6), (3, 3), "channels_last", padding=5),
    _conv("rate too large for 32 bits", (1, 4, 6, 5), (3, 3), "channels_last", padding=30000,
          dilation=30000),
    _conv("sequences cut", (1, 4, 60, 5), (3, 3), "channels_last", False, padding=1),
    _conv("unequal rates", (2, 3, 11, 37), (3, 3), "contiguous", padding=(3, 1), dilation=(3, 1)),
    _conv("planes that fill several blocks", (1, 2, 40, 60), (3, 3), "contiguous", padding=1),
    _conv("stride 2, planes", (1, 3, 17, 20), (5, 3), "contiguous", stride=(2, 3), padding=2),
)  # fmt: skip
TAPS = (
    _taps("vectors of channels, two tiles", 68, (5, 7), (10, 27), "channels_last"),
    _taps("vectors, misaligned", 8, (3, 4), (9, 8), "misaligned", align_corners=True),
    _taps("nearest, vectors", 16, (5, 6), (13, 11), "channels_last", mode="nearest"),
    _taps("one pixel for a wide map", 8, (1, 1), (3, 300), "channels_last"),
    _taps("one pixel for a wide map, single channels", 3, (1, 1), (2, 700), "contiguous", 1),
    _taps("more output rows than a batch", 4, (2, 2), (100, 5), "channels_last"),
    _taps("down, vectors", 8, (21, 30), (5, 4), "channels_last"),
    _taps("1x1, vectors", 8, (4, 3), (17, 13), "channels_last", 1, align_corners=True),
)
# Few values, so that they are among those that tools/gpu_sanitize.py takes.
BILINEAR = tuple(
    Sample(why, lambda make, size=size: {"x": make.map(1, 2, 2, 3), "size": size})
    for why, size in (
        ("rows that begin anywhere: ends and whole vectors", (3, 37)),
        ("rows that begin anywhere: more than a warp's vectors", (3, 257)),
    )
)
# Threads have four rows of pixels (two in float64), blocks 64 columns and up to 24 labels (8), in
# registers for 4, 8, 16 or 24.
WINDOW = (
    _window("more columns of the window than are staged at once", (1, 5, 3, 75), 2, 40),
    _window("two groups of labels", (1, 30, 5, 6), 3, 2),
    _window("a full group of labels, as many features as there may be", (2, 24, 6, 9), 8, 1),
    _window("rows of a block that windows do not reach", (1, 9, 11, 66), 1, 1),
    _window("rows are not dense", (1, 12, 4, 5), 2, 1, "channels_last"),
)

MAP_SAMPLES = {
    "pyramid_pool": POOL,
    "dilated_conv2d": CONV,
    "upsample_taps": TAPS,
    "upsample_bilinear": BILINEAR,
    "window_filter": WINDOW,
}
