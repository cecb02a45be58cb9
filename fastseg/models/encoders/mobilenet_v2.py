"""MobileNetV2 as a feature pyramid, with torchvision's names."""

from __future__ import annotations

import torch
from torch import nn

from ...nn import Chain, DilatedConv2d
from .base import Encoder

# Expansion, channels, blocks, stride of the first block.
# Source: Sandler et al., MobileNetV2, 2018, table 2.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
# Index of the last layer at each of the strides 2, 4, ... 32.
LAST_LAYERS = (1, 3, 6, 13, 18)
# Those before the second block at stride 4.
EARLY_LAYERS = 3


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3, linear 1x1 projection; added to x where the shapes agree."""

    def __init__(
        self, in_channels: int, expansion: int, channels: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        expanded = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_bn_relu6(nn.Conv2d(in_channels, expanded, 1, bias=False)))
        # With a stride torch's depthwise convolution is the faster one.
        convolution = DilatedConv2d if stride == 1 else nn.Conv2d
        depthwise = convolution(
            expanded,
            expanded,
            3,
            stride,
            padding=dilation,
            dilation=dilation,
            groups=expanded,
            bias=False,
        )
        layers.append(_conv_bn_relu6(depthwise))
        layers += [nn.Conv2d(expanded, channels, 1, bias=False), nn.BatchNorm2d(channels)]
        self.conv = Chain(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, channels, ceil(H / stride), ceil(W / stride)]."""
        y = self.conv(x)
        if self.residual:
            y += x
        return y


class MobileNetV2Encoder(Encoder):
    """The convolutional part of MobileNetV2; the layers after `depth` do not exist.

    Args:
        in_channels, depth, output_stride: as in `Encoder`.
    """

    prefixes = tuple(f"features.{index}." for index in range(19))
    classifier_prefix = "classifier."

    def __init__(self, in_channels: int = 3, depth: int = 5, output_stride: int = 32) -> None:
        super().__init__(in_channels, depth, output_stride)
        stem = nn.Conv2d(in_channels, 32, 3, stride=2, padding=1, bias=False)
        layers: list[nn.Module] = [_conv_bn_relu6(stem)]
        channels, halvings = 32, 1
        for expansion, width, count, first_stride in STAGES:
            halvings += first_stride == 2
            stride, dilation = self.stride_and_dilation(halvings)
            for position in range(count):
                step = stride if position == 0 and first_stride == 2 else 1
                layers.append(InvertedResidual(channels, expansion, width, step, dilation))
                channels = width
        layers.append(_conv_bn_relu6(nn.Conv2d(channels, 1280, 1, bias=False)))
        self.features = nn.Sequential(*layers[: LAST_LAYERS[depth - 1] + 1])
        self.out_channels = [in_channels, 16, 24, 32, 96, 1280][: depth + 1]
        self.initialise()

    def early_layers(self) -> list[nn.Module]:
        """The convolution of the image and the first two blocks."""
        return list(self.features.children())[:EARLY_LAYERS]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and the features at each stride, finest first: depth + 1 maps."""
        features = [x]
        x = self.to_early(x)
        for index, layer in enumerate(self.features):
            x = layer(self.to_late(x) if index == EARLY_LAYERS else x)
            if index in LAST_LAYERS:
                features.append(x)
        return features


def _conv_bn_relu6(convolution: nn.Conv2d) -> nn.Sequential:
    return Chain(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU6(inplace=True))
