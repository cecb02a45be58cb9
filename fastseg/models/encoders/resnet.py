"""ResNet-18 to ResNet-152 as feature pyramids, with torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...nn import Chain
from ...nn.chain import run, run_residual
from .base import Encoder


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to x (or to its 1x1 projection where the shape changes)."""

    expansion = 1
    chains = (("conv1", "bn1", "relu", "conv2", "bn2"),)

    def __init__(
        self, in_channels: int, width: int, stride: int, dilation: int, first_dilation: int
    ) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, width, stride, first_dilation)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(in_channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, width, ceil(H / stride), ceil(W / stride)]."""
        layers = (self.conv1, self.bn1, self.relu, self.conv2, self.bn2)
        return run_residual(x, layers, self.downsample, self.relu)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride and the dilation) and 1x1 convolution, added to x."""

    expansion = 4
    chains = (("conv1", "bn1", "relu", "conv2", "bn2", "relu", "conv3", "bn3"),)

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        dilation: int,
        first_dilation: int,
        stride_first: bool = False,
    ) -> None:
        super().__init__()
        channels = width * self.expansion
        strides = (stride, 1) if stride_first else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, strides[1], first_dilation)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, 4 * width, ceil(H / stride), ceil(W / stride)]."""
        first = (self.conv1, self.bn1, self.relu)
        layers = (*first, self.conv2, self.bn2, self.relu, self.conv3, self.bn3)
        return run_residual(x, layers, self.downsample, self.relu)


class ResNetEncoder(Encoder):
    """The convolutional part of a ResNet; the stages after `depth` do not exist.

    Args:
        block: BasicBlock or Bottleneck.
        counts: blocks of each of the four stages.
        in_channels, depth, output_stride: as in `Encoder`.
        contract_dilation: the first block of a stage whose stride became dilation keeps the
            dilation of the stage before (torchvision, mmseg). Otherwise all of its convolutions
            have the new one (smp, semseg). Bottleneck blocks only.
        stem_channels: None for the 7x7 convolution to 64 channels; three numbers for three 3x3
            convolutions instead, (64, 64, 128) in the PSPNet paper.
        stride_first: the stride of a bottleneck is in its first 1x1 convolution, as in the paper
            and Caffe's networks, not in the 3x3 one, as torchvision has it. Bottleneck blocks only.
        pool_ceil_mode: the pooling rounds sizes up, as Caffe's does.

    Source: He et al., Deep Residual Learning, 2016, table 1.
    """

    prefixes = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    classifier_prefix = "fc."
    chains = (("conv1", "bn1", "relu"),)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        counts: Sequence[int],
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 32,
        contract_dilation: bool = False,
        stem_channels: Sequence[int] | None = None,
        stride_first: bool = False,
        pool_ceil_mode: bool = False,
    ) -> None:
        super().__init__(in_channels, depth, output_stride)
        for name, value in (
            ("contract_dilation", contract_dilation),
            ("stride_first", stride_first),
        ):
            if value and block is BasicBlock:
                raise ValueError(f"{name} is True, possible only with bottleneck blocks")
        self.conv1 = _stem(in_channels, stem_channels)
        channels = 64 if stem_channels is None else stem_channels[-1]
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=pool_ceil_mode)
        self.out_channels = [in_channels, channels]
        before = 1
        more = {"stride_first": True} if stride_first else {}
        for index in range(1, depth):
            # Stage 1 follows the pooling and has no stride of its own.
            stride, dilation = self.stride_and_dilation(index + 1)
            stride = 1 if index == 1 else stride
            width = 32 << index
            blocks = []
            for position in range(counts[index - 1]):
                first = before if contract_dilation and position == 0 else dilation
                blocks.append(block(channels, width, stride, dilation, first, **more))
                channels, stride = width * block.expansion, 1
            self.add_module(f"layer{index}", nn.Sequential(*blocks))
            self.out_channels.append(channels)
            before = dilation
        self.initialise()

    def early_layers(self) -> list[nn.Module]:
        """The layers before the pooling."""
        return [self.conv1, self.bn1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x and the features after each stage, finest first: depth + 1 maps."""
        features = [x, run(self.to_early(x), self.conv1, self.bn1, self.relu)]
        for index in range(1, self.depth):
            y = self.maxpool(self.to_late(features[-1])) if index == 1 else features[-1]
            features.append(self.get_submodule(f"layer{index}")(y))
        return features


def _conv3x3(in_channels: int, channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
    )


def _shortcut(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return Chain(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def _stem(in_channels: int, stem_channels: Sequence[int] | None) -> nn.Module:
    if stem_channels is None:
        return nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    if len(stem_channels) != 3:
        raise ValueError(f"stem_channels has {len(stem_channels)} numbers, expected 3")
    first, second, third = stem_channels
    return nn.Sequential(
        _conv3x3(in_channels, first, 2, 1),
        nn.BatchNorm2d(first),
        nn.ReLU(inplace=True),
        _conv3x3(first, second, 1, 1),
        nn.BatchNorm2d(second),
        nn.ReLU(inplace=True),
        _conv3x3(second, third, 1, 1),
    )
