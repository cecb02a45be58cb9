"""Convolutions as modules."""

from __future__ import annotations

import torch
from torch import nn

from ..ops.dilated_conv2d import dilated_conv2d


class DilatedConv2d(nn.Conv2d):
    """nn.Conv2d whose forward is fastseg.dilated_conv2d: same arguments, parameters and values.

    Raises:
        ValueError: padding_mode other than "zeros".
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H', W'] in x's memory format."""
        if self.padding_mode != "zeros":
            raise ValueError(f"padding_mode is {self.padding_mode!r}, allowed is 'zeros'")
        return dilated_conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
