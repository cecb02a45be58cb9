"""The shapes of tiles that the Triton kernels are compiled in: these and no others.

tests/triton_kernels runs each of them in the interpreter and compiles each for every architecture.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch

from .triton_tiles import Maps, Taps, tap_visits

# "ieee": float32 products as they are; "tf32": on tensor cores, which round their factors.
Precision = Literal["ieee", "tf32"]

# Triton miscompiles loops over taps and channels with 8 (pytorch/pytorch#173068).
WARPS = 4

# Elements of weight_gradient_sum_kernel's programs.
SUM_BLOCK = 1024


@dataclasses.dataclass(frozen=True)
class ConvConfig:
    """A tile of conv_kernel.

    Attributes:
        box: images, rows and columns of the pixels of a tile.
        out_channels: of a tile.
        depth: input channels per step.
        stages: steps whose loads are under way or in use.
    """

    box: tuple[int, int, int]
    out_channels: int
    depth: int
    stages: int


@dataclasses.dataclass(frozen=True)
class GradientConfig:
    """A tile of weight_gradient_kernel.

    Attributes:
        box: images, rows and columns of the pixels per step.
        out_channels, channels: of a tile.
        stages: steps whose loads are under way or in use.
    """

    box: tuple[int, int, int]
    out_channels: int
    channels: int
    stages: int


def precision(dtype: torch.dtype) -> Precision:
    """How products of this type are computed: float32 as torch's setting for cuDNN says."""
    if dtype is torch.float32 and torch.backends.cudnn.allow_tf32:
        return "tf32"
    return "ieee"


def conv_configs(dtype: torch.dtype, how: Precision, descriptors: bool) -> list[ConvConfig]:
    """Every tile of conv_kernel for maps of this type; `descriptors`: whether loads are TMA's."""
    if dtype is not torch.float32:
        depth, stages = (64, 3) if descriptors else (32, 4)
        wide = [(1, 8, 16), (2, 8, 8), (8, 4, 4), (1, 8, 8)]
        return [ConvConfig(box, 128, depth, stages) for box in wide] + [
            ConvConfig((1, 8, 16), 64, depth, stages)
        ]
    if how == "tf32":
        depth, stages = (32, 3) if descriptors else (16, 4)
        return [ConvConfig(box, 64, depth, stages) for box in ((1, 8, 16), (8, 4, 4))]
    return [ConvConfig((1, 8, 8), 64, 16, 3)]


def gradient_configs(dtype: torch.dtype, how: Precision, descriptors: bool) -> list[GradientConfig]:
    """Every tile of weight_gradient_kernel for maps of this type."""
    if dtype is not torch.float32:
        if descriptors:
            return [GradientConfig(box, 128, 128, 3) for box in ((1, 8, 8), (4, 4, 4))]
        return [GradientConfig(box, 128, 128, 4) for box in ((1, 4, 8), (2, 4, 4))]
    if how == "tf32":
        return [GradientConfig(box, 128, 64, 3) for box in ((1, 4, 8), (2, 4, 4))]
    return [GradientConfig((1, 4, 4), 64, 64, 3)]


# A smaller tile reads its factors more often for the same product: it must save this much.
_SMALLER_TILE_MUST_SAVE = 1.15


def choose_conv_config(
    configs: list[ConvConfig],
    branches: tuple[Taps, ...],
    maps: Maps,
    out_channels: int,
    programs: int,
) -> ConvConfig:
    """The tile with which the busiest program has the least to do."""

    def work(config: ConvConfig) -> float:
        tile = math.prod(config.box) * config.out_channels
        visits = tap_visits(branches, maps, config.box)
        blocks = math.ceil(out_channels / config.out_channels)
        share = visits * blocks * config.out_channels / programs
        heaviest = tile * max(taps.count for taps in branches)
        largest = max(math.prod(c.box) * c.out_channels for c in configs)
        return max(share, heaviest) * (1.0 if tile == largest else _SMALLER_TILE_MUST_SAVE)

    return min(configs, key=work)


def choose_gradient_config(configs: list[GradientConfig], taps: Taps, maps: Maps) -> GradientConfig:
    """The tile whose boxes hold the fewest pixels outside of the maps."""
    return min(configs, key=lambda config: tap_visits((taps,), maps, config.box))
