"""Convolutions as modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.dilated_conv2d import dilated_conv2d


class DilatedConv2d(nn.Conv2d):
    """nn.Conv2d whose forward is fastseg.dilated_conv2d: same arguments, parameters and values.

    Raises:
        ValueError: padding_mode other than "zeros".
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H', W'] in x's memory format."""
        return convolve(self, x, self.weight, self.bias)


def convolve(
    convolution: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The convolution of a module, with another weight and bias.

    Raises:
        ValueError: padding_mode other than "zeros".
    """
    if convolution.padding_mode != "zeros":
        raise ValueError(f"padding_mode is {convolution.padding_mode!r}, allowed is 'zeros'")
    function: Any = dilated_conv2d if isinstance(convolution, DilatedConv2d) else F.conv2d
    return function(
        x,
        weight,
        bias,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )
