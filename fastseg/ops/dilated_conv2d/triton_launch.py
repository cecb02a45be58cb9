"""Launches of the Triton kernels: tables, tensor descriptors, results."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from ..._streams import in_use
from .triton_config import (
    SUM_BLOCK,
    WARPS,
    ConvConfig,
    GradientConfig,
    choose_gradient_config,
    gradient_configs,
    precision,
)
from .triton_tables import (
    best_conv_config,
    conv_table,
    gradient_table,
    programs_on,
)
from .triton_tiles import Maps, Pair, Taps

MAX_BRANCHES = 4


def descriptors_for(*tensors: torch.Tensor) -> bool:
    """Whether the loads of these dense tensors are TMA's: sm_90 and newer (and the interpreter)."""
    return _has_tma(tensors[0].device) and all(map(can_be_described, tensors))


def can_be_described(tensor: torch.Tensor) -> bool:
    """Whether a tensor descriptor can hold it: rows of channels must begin at 16-byte addresses."""
    channels = tensor.shape[1]
    return channels * tensor.element_size() % 16 == 0 and tensor.data_ptr() % 16 == 0


@functools.cache
def _has_tma(device: torch.device) -> bool:
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def convolve(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    branches: tuple[Taps, ...],
    out: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    limit: float | None = None,
    *,
    config: ConvConfig | None = None,
    descriptors: bool | None = None,
) -> None:
    """Writes clamp(scale * convolution + shift, 0, limit) of each branch into its channels of out.

    Args:
        x: map [N, C, H, W], dense in channels_last.
        weights: of each branch [C_out, C, kernel_h, kernel_w], dense in channels_last.
        branches: their taps.
        out: map [N, len(weights) * C_out, H_out, W_out] with the pixels of channels_last: all of a
            map, or a slice of the channels of one.
        scale, shift: [len(weights) * C_out] or None.
        limit: None for no clamping.
        config, descriptors: instead of the choice by size and device, for tests and measurements.
    """
    from .triton_kernels import conv_kernel

    images, channels, height, width = x.shape
    out_channels, (out_height, out_width) = weights[0].shape[0], out.shape[2:]
    if out.numel() == 0:
        return
    maps = Maps(images, (height, width), (out_height, out_width))
    how = precision(x.dtype)
    if descriptors is None:
        descriptors = descriptors_for(x, *weights)
    if config is None:
        config = best_conv_config(
            x.dtype, how, descriptors, branches, maps, out_channels, programs_on(x.device)
        )
    tiles, programs = conv_table(branches, maps, out_channels, config, x.device)
    in_use(tiles)
    source: Any = _pixels(x)
    factors: list[Any] = [_taps_first(w) for w in weights]
    if descriptors:
        source = _described(source, [*config.box, config.depth])
        factors = [_described(w, [1, config.out_channels, config.depth]) for w in factors]
    else:
        factors = list(weights)
    factors += [None] * (MAX_BRANCHES - len(weights))
    with _on(x.device):
        conv_kernel[(programs,)](
            source,
            *factors,
            scale,
            shift,
            out,
            tiles,
            tiles.shape[0],
            images,
            height,
            width,
            channels,
            out_height,
            out_width,
            out_channels,
            out.stride(3) if out_width > 1 else _pixel_stride(out),
            0.0 if limit is None else limit,
            BI=config.box[0],
            BH=config.box[1],
            BW=config.box[2],
            BN=config.out_channels,
            BK=config.depth,
            BRANCHES=len(weights),
            DESCRIPTORS=descriptors,
            SCALE=scale is not None,
            SHIFT=shift is not None,
            CLAMP=limit is not None,
            PRECISION=how,
            num_warps=WARPS,
            num_stages=config.stages,
        )


def weight_gradient(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    kernel: Pair,
    taps: Taps,
    *,
    config: GradientConfig | None = None,
    descriptors: bool | None = None,
) -> torch.Tensor:
    """[C_out, C, kernel_h, kernel_w] in channels_last, from maps dense in channels_last.

    The pixels are summed in runs whose number depends on the sizes and the device; the runs are
    added one after the other. The result is the same bits every time.
    """
    from .triton_kernels import weight_gradient_kernel, weight_gradient_sum_kernel

    images, channels, height, width = x.shape
    out_channels, (out_height, out_width) = grad_out.shape[1], grad_out.shape[2:]
    maps = Maps(images, (height, width), (out_height, out_width))
    how = precision(x.dtype)
    if descriptors is None:
        descriptors = descriptors_for(x, grad_out)
    if config is None:
        config = choose_gradient_config(gradient_configs(x.dtype, how, descriptors), taps, maps)
    tiles = math.ceil(out_channels / config.out_channels) * math.ceil(channels / config.channels)
    work, first = gradient_table(taps, maps, config, tiles, x.device)
    in_use(work, first)
    runs = work.shape[0]
    padded = math.ceil(channels / 16) * 16
    partial = x.new_empty((runs, out_channels, padded), dtype=torch.float32)
    grad_weight = x.new_empty((out_channels, *kernel, channels))
    factors: list[Any] = [_pixels(grad_out), _pixels(x)]
    if descriptors:
        sizes = (config.out_channels, config.channels)
        factors = [_described(f, [*config.box, s]) for f, s in zip(factors, sizes, strict=True)]
    with _on(x.device):
        if runs > 0:
            weight_gradient_kernel[(tiles, runs)](
                *factors,
                partial,
                work,
                images,
                height,
                width,
                channels,
                out_height,
                out_width,
                out_channels,
                padded,
                BI=config.box[0],
                BH=config.box[1],
                BW=config.box[2],
                BM=config.out_channels,
                BN=config.channels,
                DESCRIPTORS=descriptors,
                PRECISION=how,
                num_warps=WARPS,
                num_stages=config.stages,
            )
        weight_gradient_sum_kernel[(math.ceil(out_channels * padded / SUM_BLOCK), taps.count)](
            partial,
            first,
            grad_weight,
            out_channels,
            channels,
            padded,
            BLOCK=SUM_BLOCK,
            num_warps=WARPS,
        )
    return grad_weight.permute(0, 3, 1, 2)


def _pixels(x: torch.Tensor) -> torch.Tensor:
    """[N, H, W, C] of a map dense in channels_last, with the strides it has where no size is 1."""
    n, c, h, w = x.shape
    return x.as_strided((n, h, w, c), (h * w * c, w * c, c, 1))


def _taps_first(weight: torch.Tensor) -> torch.Tensor:
    """[taps, C_out, C] of a weight dense in channels_last."""
    o, c, h, w = weight.shape
    return weight.as_strided((h * w, o, c), (c, h * w * c, 1))


def _pixel_stride(out: torch.Tensor) -> int:
    """Elements between two pixels of a map that is one pixel wide."""
    return out.stride(2) if out.shape[2] > 1 else out.stride(0) if out.shape[0] > 1 else 0


def _described(tensor: torch.Tensor, block: list[int]) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(tensor, block)


def _on(device: torch.device) -> Any:
    """Triton launches on the current device, whatever its arguments are on."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
