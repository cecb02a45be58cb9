"""Kinds of modules that are not one library's own."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..nn.altered import original_class
from ..nn.chain import flat, is_sequence, run
from ..ops.dilated_conv2d import dilated_conv2d
from ..ops.upsample_bilinear import upsample_bilinear
from .swap import Swap


def _depthwise_dilated(module: Any) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels > 1
        and max(module.dilation) > 1
    )


def _convolve_depthwise(self: Any, x: torch.Tensor) -> torch.Tensor:
    return dilated_conv2d(
        x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
    )


def _unusual_convolution(self: Any) -> str | None:
    if self.padding_mode != "zeros":
        return f"padding_mode is {self.padding_mode!r}"
    if isinstance(self.padding, str):
        return f"padding is {self.padding!r}"
    return None


def _normalises(module: nn.Module) -> bool:
    """Whether a sequence has a batch norm right after a convolution."""
    if not is_sequence(module):
        return False
    layers: list[Any] = [None]
    for child in module.children():
        if original_class(child) is nn.BatchNorm2d and original_class(layers[-1]) is nn.Conv2d:
            return True
        layers += flat([child])
    return False


def _run_sequence(self: Any, x: torch.Tensor) -> torch.Tensor:
    return run(x, *self)


def _upsamples(module: Any) -> bool:
    return type(module) is nn.Upsample and module.mode == "bilinear"


def _upsample(self: Any, x: torch.Tensor) -> torch.Tensor:
    align_corners = bool(self.align_corners)
    if self.size is not None:
        return upsample_bilinear(x, self.size, align_corners=align_corners)
    return upsample_bilinear(x, scale_factor=self.scale_factor, align_corners=align_corners)


def _unusual_upsampling(self: Any) -> str | None:
    return "recompute_scale_factor is set" if self.recompute_scale_factor else None


DEPTHWISE = Swap(
    "depthwise",
    "depthwise dilated convolution, with a fast backward",
    _depthwise_dilated,
    _convolve_depthwise,
    unfit=_unusual_convolution,
)
SEQUENCE = Swap(
    "sequence", "batch norm and ReLU in the convolution, for inference", _normalises, _run_sequence
)
UPSAMPLE = Swap(
    "upsample",
    "bilinear upsampling, deterministic backward",
    _upsamples,
    _upsample,
    unfit=_unusual_upsampling,
)
