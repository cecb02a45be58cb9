"""Heads of popular models: the layers as written and fastseg's functions, with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F

from fastseg import upsample_conv2d
from fastseg.nn import mlp_fuse, pyramid_conv2d, upsample_separable_conv2d
from fastseg.nn.flops import (
    Flops,
    mlp_fuse_flops,
    pyramid_conv2d_flops,
    upsample_conv2d_flops,
    upsample_separable_conv2d_flops,
)

Tensors = list[torch.Tensor]
Map = tuple[int, int, int]  # channels, height, width


@dataclasses.dataclass(frozen=True)
class HeadCase:
    """One head and size.

    Attributes:
        maps: shapes without the batch.
        weights: shapes.
        ours, plain: functions of the maps and the weights.
        flops: of a batch of one, as written and here.
        quick: whether `--quick` takes it.
    """

    name: str
    maps: tuple[Map, ...]
    weights: tuple[tuple[int, ...], ...]
    ours: Callable[[Tensors, Tensors], torch.Tensor]
    plain: Callable[[Tensors, Tensors], torch.Tensor]
    flops: Flops
    quick: bool = False

    def __str__(self) -> str:
        return self.name

    def inputs(
        self, batch: int, layout: torch.memory_format, device: str
    ) -> tuple[Tensors, Tensors]:
        """Random maps and weights: the same numbers at every call."""
        generator = torch.Generator().manual_seed(0)

        def make(shape: tuple[int, ...], scale: float = 1.0) -> torch.Tensor:
            x = (torch.randn(shape, generator=generator) * scale).to(device)
            return x.contiguous(memory_format=layout) if x.dim() == 4 else x

        maps = [make((batch, *shape)) for shape in self.maps]
        weights = [make(shape, torch.Size(shape[1:]).numel() ** -0.5) for shape in self.weights]
        return maps, weights


def _joined(maps: Tensors, mode: str = "bilinear", align_corners: bool = False) -> torch.Tensor:
    size = max((x.shape[2:] for x in maps), key=lambda s: s[0] * s[1])
    corners = align_corners if mode == "bilinear" else None
    return torch.cat(
        [
            x if x.shape[2:] == size else F.interpolate(x, size, mode=mode, align_corners=corners)
            for x in maps
        ],
        1,
    )


def _segformer(name: str, hidden: int, size: int, quick: bool = False) -> HeadCase:
    channels = (64, 128, 320, 512)
    maps = tuple((c, size // 4 >> i, size // 4 >> i) for i, c in enumerate(channels))

    def plain(levels: Tensors, w: Tensors) -> torch.Tensor:
        layers = zip(levels, w[:4], w[4:8], strict=True)
        return F.conv2d(_joined([F.conv2d(x, weight, bias) for x, weight, bias in layers]), w[8])

    return HeadCase(
        name,
        maps,
        (
            *((hidden, c, 1, 1) for c in channels),
            *[(hidden,)] * 4,
            (hidden, 4 * hidden, 1, 1),
        ),
        lambda levels, w: mlp_fuse(levels, w[:4], w[4:8], w[8]),
        plain,
        mlp_fuse_flops([(1, *m) for m in maps], hidden, hidden),
        quick,
    )


def _pyramid(
    name: str, channels: int, out: int, kernel: int, size: int, input_first: bool
) -> HeadCase:
    maps = ((channels, size, size), *((channels // 4, b, b) for b in (1, 2, 3, 6)))
    weight = (out, 2 * channels, kernel, kernel)

    def plain(maps: Tensors, w: Tensors) -> torch.Tensor:
        ordered = maps if input_first else [*maps[1:], maps[0]]
        return F.conv2d(_joined(ordered, align_corners=True), w[0], padding=kernel // 2)

    def ours(maps: Tensors, w: Tensors) -> torch.Tensor:
        return pyramid_conv2d(maps[0], maps[1:], w[0], input_first=input_first, align_corners=True)

    shapes = [(1, *m) for m in maps]
    flops = pyramid_conv2d_flops(shapes[0], shapes[1:], weight)
    return HeadCase(name, maps, (weight,), ours, plain, flops)


def _convolution(
    name: str, out: int, *maps: Map, mode: str = "bilinear", align_corners: bool = False
) -> HeadCase:
    weight = (out, sum(m[0] for m in maps), 3, 3)

    def plain(maps: Tensors, w: Tensors) -> torch.Tensor:
        return F.conv2d(_joined(maps, mode, align_corners), w[0], padding=1)

    def ours(maps: Tensors, w: Tensors) -> torch.Tensor:
        return upsample_conv2d(maps, w[0], mode=mode, align_corners=align_corners)

    flops = upsample_conv2d_flops([(1, *m) for m in maps], weight, mode=mode)
    return HeadCase(name, maps, (weight,), ours, plain, flops)


def _separable(name: str, out: int, *maps: Map) -> HeadCase:
    channels = sum(m[0] for m in maps)
    weights = ((channels, 1, 3, 3), (out, channels, 1, 1))

    def plain(maps: Tensors, w: Tensors) -> torch.Tensor:
        joined = _joined(maps, align_corners=True)
        return F.conv2d(F.conv2d(joined, w[0], padding=1, groups=channels), w[1])

    def ours(maps: Tensors, w: Tensors) -> torch.Tensor:
        return upsample_separable_conv2d(maps, *w, align_corners=True)

    flops = upsample_separable_conv2d_flops([(1, *m) for m in maps], weights[1])
    return HeadCase(name, maps, weights, ours, plain, flops)


CASES = (
    _segformer("SegFormer D256 512", 256, 512, quick=True),
    _segformer("SegFormer D768 512", 768, 512),
    _pyramid("PSPNet bottleneck 3x3 @60", 2048, 512, 3, 60, True),
    _pyramid("PSPNet smp 1x1 @64", 512, 512, 1, 64, False),
    _convolution("UPerNet fpn_bottleneck @128", 512, *((512, s, s) for s in (128, 64, 32, 16))),
    _convolution(
        "DeepLabV3+ dense 33->129", 256, (48, 129, 129), (256, 33, 33), align_corners=True
    ),
    _separable("DeepLabV3+ separable 32->128", 256, (256, 32, 32), (48, 128, 128)),
    _convolution("UNet 512+256->256 @32", 256, (512, 16, 16), (256, 32, 32), mode="nearest"),
    _convolution("UNet 64+64->32 @256", 32, (64, 128, 128), (64, 256, 256), mode="nearest"),
)
