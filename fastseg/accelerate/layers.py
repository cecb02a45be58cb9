"""Swaps for modules of any library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..nn.altered import original_class
from ..nn.chain import flat, inner_sequences, run
from ..ops.dilated_conv2d import dilated_conv2d
from ..ops.upsample_bilinear import upsample_bilinear
from .swap import Swap


class Depthwise(Swap):
    """Dilated depthwise convolutions, in any model."""

    what = "depthwise dilated convolution, with a fast backward"
    classes = ("torch.nn.modules.conv.Conv2d",)

    def matches(self, module: Any) -> bool:
        return (
            module.groups == module.in_channels == module.out_channels > 1
            and max(module.dilation) > 1
        )

    def forward(self, module: Any, input: torch.Tensor) -> torch.Tensor:
        return dilated_conv2d(
            input,
            module.weight,
            module.bias,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
        )

    def unfit(self, module: Any) -> str | None:
        if module.padding_mode != "zeros":
            return f"padding_mode is {module.padding_mode!r}"
        if isinstance(module.padding, str):
            return f"padding is {module.padding!r}"
        return None


class Sequence(Swap):
    """nn.Sequential, by whatever name, with a batch norm right after a convolution."""

    what = "batch norm and ReLU in the convolution, for inference"
    classes = ("torch.nn.modules.container.Sequential",)
    subclasses = True

    def matches(self, module: Any) -> bool:
        layers: list[Any] = [None]
        for child in module.children():
            if original_class(child) is nn.BatchNorm2d and original_class(layers[-1]) is nn.Conv2d:
                return True
            layers += flat([child])
        return False

    def forward(self, module: Any, input: torch.Tensor) -> torch.Tensor:
        return run(input, *module)

    def covers(self, module: Any) -> Iterable[nn.Module]:
        """Sequences inside, which this one opens without calling them."""
        return inner_sequences(module)


class Upsample(Swap):
    """nn.Upsample in its bilinear mode."""

    what = "bilinear upsampling, deterministic backward"
    classes = ("torch.nn.modules.upsampling.Upsample",)

    def matches(self, module: Any) -> bool:
        return module.mode == "bilinear"

    def forward(self, module: Any, input: torch.Tensor) -> torch.Tensor:
        align_corners = bool(module.align_corners)
        if module.size is not None:
            return upsample_bilinear(input, module.size, align_corners=align_corners)
        return upsample_bilinear(
            input, scale_factor=module.scale_factor, align_corners=align_corners
        )

    def unfit(self, module: Any) -> str | None:
        return "recompute_scale_factor is set" if module.recompute_scale_factor else None


LAYERS = (Depthwise(), Sequence(), Upsample())
# Exchanged in models of no known library too.
ANYWHERE = (Depthwise,)
