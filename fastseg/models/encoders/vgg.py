"""VGG-11 to VGG-19, with or without batch norms, as feature pyramids with torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...nn.chain import run
from .base import Encoder

# Convolutions of the five stages, and their channels.
# Source: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015, table 1: A, B, D, E.
VGG_COUNTS: dict[str, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
WIDTHS = (64, 128, 256, 512, 512)


class VGGEncoder(Encoder):
    """The convolutional part of a VGG; the layers after `depth` do not exist.

    The features at each stride are those before the pooling, at stride 1 of the first stage, and
    the pooled ones at the last. A pooling leaves out the last row or column of an odd size.

    Args:
        counts: convolutions of each of the five stages.
        batch_norm: whether each is followed by a batch norm.
        in_channels, depth: as in `Encoder`.
        output_stride: 32; with pool_size 3 also 8 and 16: later poolings keep the size, and the
            convolutions after them are dilated.
        pool_size: 2, or 3 with a border of 1, as DeepLab v1 and v2 pool: a pooling then rounds an
            odd size up.
        average_last: an average over 3x3 pixels after the last pooling, as in DeepLab-LargeFOV.

    Raises:
        ValueError: another output stride or pool_size, or as in `Encoder`.

    Source: Simonyan and Zisserman, Very Deep Convolutional Networks, 2015; Chen et al., Semantic
    Image Segmentation with Deep Convolutional Nets and Fully Connected CRFs, 2015.
    """

    prefixes = tuple(f"features.{index}." for index in range(53))
    classifier_prefix = "classifier."
    rounds_up = False

    def __init__(
        self,
        counts: Sequence[int],
        batch_norm: bool = False,
        in_channels: int = 3,
        depth: int = 5,
        output_stride: int = 32,
        pool_size: int = 2,
        average_last: bool = False,
    ) -> None:
        super().__init__(in_channels, depth, output_stride)
        if pool_size not in (2, 3):
            raise ValueError(f"pool_size is {pool_size}, allowed are 2 and 3")
        if pool_size == 2 and output_stride < 2**depth:
            raise ValueError(
                f"encoder output stride is {output_stride}, but a VGG of depth {depth} has "
                f"{2**depth}: its poolings of 2x2 cannot become dilation, those of pool_size 3 can"
            )
        self.rounds_up = pool_size == 3
        layers: list[nn.Module] = []
        self.last_layers: list[int] = []
        channels = in_channels
        for stage, (count, width) in enumerate(zip(counts, WIDTHS, strict=True)):
            _, rate = self.stride_and_dilation(stage)
            for _ in range(count):
                layers.append(nn.Conv2d(channels, width, 3, padding=rate, dilation=rate))
                if batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                channels = width
            self.last_layers.append(len(layers) - 1)
            if stage == depth:
                break
            step, _ = self.stride_and_dilation(stage + 1)
            layers.append(nn.MaxPool2d(pool_size, stride=step, padding=pool_size // 3))
        else:
            if average_last:
                layers.append(nn.AvgPool2d(3, stride=1, padding=1))
            self.last_layers.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.out_channels = [*WIDTHS, WIDTHS[-1]][: depth + 1]
        self.initialise()

    def initialise(self) -> None:
        """Random weights as torchvision's VGG has them before training."""
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        for module in convolutions[0 if self.in_channels == 3 else 1 :]:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def early_layers(self) -> list[nn.Module]:
        """The layers before the second pooling."""
        return list(self.features.children())[: self.last_layers[1] + 1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The features, finest first, at the strides 1, 2, ... 2^depth: depth + 1 maps."""
        features = []
        layers = list(self.features)
        x, first = self.to_early(x), 0
        for stage, last in enumerate(self.last_layers):
            x = run(self.to_late(x) if stage == 2 else x, *layers[first : last + 1])
            first = last + 1
            features.append(x)
        return features
