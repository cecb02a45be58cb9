"""The tables of launches on their device, made once for each geometry."""

from __future__ import annotations

import functools
import math

import torch

from ..._streams import copied
from .triton_config import (
    ConvConfig,
    GradientConfig,
    Precision,
    choose_conv_config,
    conv_configs,
)
from .triton_tiles import Maps, Taps, conv_tiles, weight_gradient_work

# Two programs fit a multiprocessor: one multiplies while the other one writes its tile.
_PROGRAMS_PER_MULTIPROCESSOR = 2
_TABLES_KEPT = 256
_NAME = "dilated_conv2d"


@functools.cache
def programs_on(device: torch.device) -> int:
    """How many programs a launch has."""
    if device.type != "cuda":
        return 3  # the interpreter: several rounds on small maps
    count = torch.cuda.get_device_properties(device).multi_processor_count
    return count * _PROGRAMS_PER_MULTIPROCESSOR


@functools.lru_cache(_TABLES_KEPT)
def best_conv_config(
    dtype: torch.dtype,
    how: Precision,
    descriptors: bool,
    branches: tuple[Taps, ...],
    maps: Maps,
    out_channels: int,
    programs: int,
) -> ConvConfig:
    """The tile for these sizes; see choose_conv_config."""
    configs = conv_configs(dtype, how, descriptors)
    return choose_conv_config(configs, branches, maps, out_channels, programs)


@functools.lru_cache(_TABLES_KEPT)
def conv_table(
    branches: tuple[Taps, ...],
    maps: Maps,
    out_channels: int,
    config: ConvConfig,
    device: torch.device,
) -> tuple[torch.Tensor, int]:
    """The rows of conv_kernel, and how many programs work through them."""
    programs = programs_on(device)
    table = conv_tiles(branches, maps, out_channels, config.box, config.out_channels, programs)
    return copied(torch.from_numpy(table), device, _NAME), min(programs, len(table))


@functools.lru_cache(_TABLES_KEPT)
def gradient_table(
    taps: Taps, maps: Maps, config: GradientConfig, tiles: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of weight_gradient_kernel, whose grid has `tiles` for each; the taps' first rows."""
    # Two rounds of all programs: enough that none waits long for the last.
    slots = math.ceil(2 * programs_on(device) / tiles)
    work, first = weight_gradient_work(taps, maps, config.box, slots)
    rows, offsets = (copied(torch.from_numpy(t), device, _NAME) for t in (work, first))
    return rows, offsets
