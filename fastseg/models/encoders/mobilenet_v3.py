"""MobileNetV3 (large) as a feature pyramid, with torchvision's names."""

from __future__ import annotations

import torch
from torch import nn

from ...nn import Chain, DilatedConv2d
from .base import Encoder

# Kernel, expanded channels, channels, whether channels are weighed, hard-swish (or ReLU), stride.
# Source: Howard et al., Searching for MobileNetV3, 2019, table 1.
BLOCKS = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)
STEM, LAST = 16, 960
# Index of the layer whose result is the features at each of the strides 2, 4, ... 32: the last of
# that stride, or the first block of it as torchvision's segmentation models read them.
LAST_LAYERS, FIRST_LAYERS = (1, 3, 6, 12, 16), (0, 2, 4, 7, 16)
# Those before the second block at stride 4.
EARLY_LAYERS = 3
# Source: the same, section 6.1.1, as torchvision has it.
EPSILON, MOMENTUM = 1e-3, 0.01


class SqueezeExcitation(nn.Module):
    """Weighs channels by two layers on their means: ReLU between them, hard sigmoid after them.

    Args:
        channels: of the map.
        hidden: between the layers.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.activation = nn.ReLU()
        self.scale_activation = nn.Hardsigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] -> map of the same shape."""
        weights = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return x * self.scale_activation(weights)


class InvertedResidualV3(nn.Module):
    """1x1 expansion, depthwise, weighed channels, linear 1x1; added to x where the shapes agree."""

    def __init__(
        self,
        in_channels: int,
        kernel: int,
        expanded: int,
        channels: int,
        weighed: bool,
        hard_swish: bool,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        act = nn.Hardswish if hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != in_channels:
            layers.append(_layers(nn.Conv2d(in_channels, expanded, 1, bias=False), act))
        # With a stride torch's depthwise convolution is the faster one.
        convolution = DilatedConv2d if stride == 1 else nn.Conv2d
        depthwise = convolution(
            expanded,
            expanded,
            kernel,
            stride,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            groups=expanded,
            bias=False,
        )
        layers.append(_layers(depthwise, act))
        if weighed:
            layers.append(SqueezeExcitation(expanded, _divisible(expanded // 4)))
        layers.append(_layers(nn.Conv2d(expanded, channels, 1, bias=False)))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, channels, ceil(H / stride), ceil(W / stride)]."""
        y = self.block(x)
        if self.residual:
            y += x
        return y


class MobileNetV3Encoder(Encoder):
    """The convolutional part of MobileNetV3 (large); the layers after `depth` do not exist.

    Args:
        in_channels, depth, output_stride: as in `Encoder`.
        first_blocks: the features at a stride are those of the first block there, as torchvision's
            segmentation models read them, not of the last.

    Source: Howard et al., Searching for MobileNetV3, 2019.
    """

    prefixes = tuple(f"features.{index}." for index in range(17))
    classifier_prefix = "classifier."

    def __init__(
        self,
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 32,
        first_blocks: bool = False,
    ) -> None:
        super().__init__(in_channels, depth, output_stride)
        stem = nn.Conv2d(in_channels, STEM, 3, stride=2, padding=1, bias=False)
        layers: list[nn.Module] = [_layers(stem, nn.Hardswish)]
        channels, halvings = STEM, 1
        for kernel, expanded, width, weighed, hard_swish, first_stride in BLOCKS:
            halvings += first_stride == 2
            stride, dilation = self.stride_and_dilation(halvings)
            step = stride if first_stride == 2 else 1
            layers.append(
                InvertedResidualV3(
                    channels, kernel, expanded, width, weighed, hard_swish, step, dilation
                )
            )
            channels = width
        layers.append(_layers(nn.Conv2d(channels, LAST, 1, bias=False), nn.Hardswish))
        self.last_layers = (FIRST_LAYERS if first_blocks else LAST_LAYERS)[:depth]
        self.features = nn.Sequential(*layers[: self.last_layers[-1] + 1])
        widths = [STEM, *(block[2] for block in BLOCKS), LAST]
        self.out_channels = [in_channels, *(widths[index] for index in self.last_layers)]
        self.initialise()

    def initialise(self) -> None:
        """Random weights as torchvision's MobileNetV3 has them before training."""
        super().initialise()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def early_layers(self) -> list[nn.Module]:
        """The convolution of the image and the first two blocks."""
        return list(self.features.children())[:EARLY_LAYERS]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and the features at each stride, finest first: depth + 1 maps."""
        features = [x]
        x = self.to_early(x)
        for index, layer in enumerate(self.features):
            x = layer(self.to_late(x) if index == EARLY_LAYERS else x)
            if index in self.last_layers:
                features.append(x)
        return features


def _divisible(channels: int) -> int:
    """The multiple of 8 next to a number, and not more than a tenth below it."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def _layers(convolution: nn.Conv2d, act: type[nn.Module] | None = None) -> nn.Sequential:
    norm = nn.BatchNorm2d(convolution.out_channels, eps=EPSILON, momentum=MOMENTUM)
    activation = [] if act is None else [act(inplace=True)]
    return Chain(convolution, norm, *activation)
