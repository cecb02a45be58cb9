"""U2-Net and its small form: a UNet whose stages are UNets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet, as_class_set
from ..nn import Chain
from ..nn.altered import why_not_short
from ..nn.resized import begins_with, convolve_resized, resized, run_resized
from .base import SegmentationModel

# Stages in the order in which they run, the decoder's from the coarsest to the finest, and the
# depth of the UNet inside each; 0 for the flat one, of dilations instead of poolings.
STAGES = ("1", "2", "3", "4", "5", "6", "5d", "4d", "3d", "2d", "1d")
DEPTHS = (7, 6, 5, 4, 0, 0, 0, 4, 5, 6, 7)
# Channels of each stage's result, and inside it. Source: Qin et al., U2-Net, 2020, table 1.
CHANNELS = (64, 128, 256, 512, 512, 512, 512, 256, 128, 64, 64)
HIDDEN = (32, 32, 64, 128, 256, 256, 256, 128, 64, 32, 16)
FLAT_DILATIONS = (1, 2, 4, 8)


def _layers(in_channels: int, out_channels: int, norm: bool, dilation: int = 1) -> Chain:
    """3x3 convolution, batch norm, ReLU, under the names of the original."""
    named: dict[str, nn.Module] = {
        "conv_s1": nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation)
    }
    if norm:
        named["bn_s1"] = nn.BatchNorm2d(out_channels)
    named["relu_s1"] = nn.ReLU(inplace=True)
    return Chain(OrderedDict(named))


class ResidualUBlock(nn.Module):
    """A UNet around a convolution: the sum of both.

    Args:
        in_channels, hidden, out_channels: of the input, inside, and of the result.
        depth: convolutions on the way down, each after a pooling but the last, which is dilated;
            0 for four of the dilations 1, 2, 4, 8 without pooling.
        norm: whether convolutions have batch norms.
    """

    def __init__(
        self, in_channels: int, hidden: int, out_channels: int, depth: int, norm: bool = True
    ) -> None:
        super().__init__()
        self.pools = depth > 0
        dilations = [*(1,) * (depth - 1), 2] if self.pools else list(FLAT_DILATIONS)
        self.depth = len(dilations)
        if self.pools:
            self.pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        self.rebnconvin = _layers(in_channels, out_channels, norm)
        for level, dilation in enumerate(dilations, 1):
            given = out_channels if level == 1 else hidden
            self.add_module(f"rebnconv{level}", _layers(given, hidden, norm, dilation))
        for level in range(self.depth - 1, 0, -1):
            made = out_channels if level == 1 else hidden
            layers = _layers(2 * hidden, made, norm, 1 if self.pools else dilations[level - 1])
            self.add_module(f"rebnconv{level}d", layers)

    def forward(self, x: torch.Tensor, finer: torch.Tensor | None = None) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H, W].

        With a finer map, x is resized to its size and both are concatenated.
        """
        if finer is None:
            around = self.rebnconvin(x)
        else:
            around = convolve_resized([x, finer], self.rebnconvin)
        y, downs = around, []
        for level in range(1, self.depth + 1):
            if self.pools and 1 < level < self.depth:
                y = self.pool(y)
            y = self.get_submodule(f"rebnconv{level}")(y)
            downs.append(y)
        for level in range(self.depth - 1, 0, -1):
            layers = self.get_submodule(f"rebnconv{level}d")
            y = convolve_resized([y, downs[level - 1]], layers)
        return y + around


class U2Net(SegmentationModel):
    """U2-Net with the original's names of tensors; `U2Net.small` is its small form.

    Six stages down and five up, each a `ResidualUBlock`. Every stage of the way up, and the last of
    the way down, gives logits; those of the output are a weighted sum of all. `loss` adds the
    losses of the others.

    Args:
        classes: their number, or names and colours; 1 in the original, for salient objects.
        in_channels: of the input.
        channels: of each stage's result, in the order of STAGES.
        hidden: channels inside each stage.
        norm: False for weights whose batch norms were folded into the convolutions.

    The original scales images by their largest value where `preprocess` divides by 255, and takes
    the sigmoid of all outputs.

    Raises:
        ValueError: channels or hidden are not 11 numbers.

    Source: Qin et al., U2-Net: Going Deeper with Nested U-Structure, 2020.
    """

    auxiliary_weight = 1.0
    working_size = 320
    size_step = 32

    def __init__(
        self,
        classes: ClassSet | int = 1,
        in_channels: int = 3,
        channels: Sequence[int] = CHANNELS,
        hidden: Sequence[int] = HIDDEN,
        norm: bool = True,
    ) -> None:
        super().__init__()
        for name, numbers in (("channels", channels), ("hidden", hidden)):
            if len(numbers) != len(STAGES):
                raise ValueError(f"{name} has {len(numbers)} numbers, expected {len(STAGES)}")
        self.classes = as_class_set(classes)
        made = dict(zip(STAGES, channels, strict=True))
        below = in_channels
        for stage, inside, depth in zip(STAGES, hidden, DEPTHS, strict=True):
            given = below + made[stage[0]] if stage.endswith("d") else below
            self.add_module(
                f"stage{stage}", ResidualUBlock(given, inside, made[stage], depth, norm)
            )
            below = made[stage]
        self.pool = nn.MaxPool2d(2, stride=2, ceil_mode=True)
        count = len(self.classes)
        for index, stage in enumerate((*STAGES[:5:-1], "6"), 1):
            # Of the way up, the finest first; stage 6 is the coarsest.
            layers = nn.Conv2d(made[stage], count, 3, padding=1)
            self.add_module(f"side{index}", layers)
        self.outconv = nn.Conv2d(6 * count, count, 1)

    @classmethod
    def small(cls, classes: ClassSet | int = 1, in_channels: int = 3, **options: Any) -> U2Net:
        """The small form: 64 channels of every stage, 16 inside."""
        sizes = {"channels": (64,) * len(STAGES), "hidden": (16,) * len(STAGES)}
        return cls(classes, in_channels, **{**sizes, **options})

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The size itself: every map is resized to the size of the one it meets."""
        return height, width

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, H, W] of x [N, in_channels, H, W]."""
        return self._fused(self._sides(self.pad(x)))

    def training_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """`coarse_logits` of x, and those of each of the six sides at its own resolution."""
        sides = self._sides(self.pad(x))
        return self._fused(sides), sides

    def _sides(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Logits of the six sides, finest first."""
        downs, y = [], x
        for index, stage in enumerate(STAGES[:6]):
            y = self.get_submodule(f"stage{stage}")(self.pool(y) if index else y)
            downs.append(y)
        ups = [y]
        for stage in STAGES[6:]:
            y = self.get_submodule(f"stage{stage}")(y, downs[int(stage[0]) - 1])
            ups.append(y)
        return [self.get_submodule(f"side{n}")(up) for n, up in enumerate(reversed(ups), 1)]

    def _fused(self, sides: list[torch.Tensor]) -> torch.Tensor:
        size = (sides[0].shape[2], sides[0].shape[3])
        if why_not_short(self, lambda model: (model.outconv,), _unfit) is None:
            return run_resized(sides, [self.outconv], size)
        return self.outconv(torch.cat([resized(side, size) for side in sides], 1))


def _unfit(model: Any) -> str | None:
    return begins_with(nn.Sequential(model.outconv))
