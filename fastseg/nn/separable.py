"""A depthwise and a pointwise convolution in place of a dense one."""

from __future__ import annotations

from torch import nn

from .conv import DilatedConv2d


class SeparableConv2d(nn.Sequential):
    """Depthwise 3x3 convolution, then 1x1 convolution, without bias; the size is kept.

    Map [N, in_channels, H, W] -> map [N, out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int = 1) -> None:
        depthwise = DilatedConv2d(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        super().__init__(depthwise, nn.Conv2d(in_channels, out_channels, 1, bias=False))
