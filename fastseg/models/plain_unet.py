"""U-Net without another network as its encoder: mmsegmentation's, and the paper's."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet, as_class_set
from ..layout import in_format, map_format
from ..nn import Chain
from ..nn.deconv import crop
from ..nn.heads import AuxiliaryHead
from ..nn.resized import convolve_resized
from .base import SegmentationModel

UPSAMPLINGS = ("bilinear", "deconv4", "deconv2")
BORDERS = ("zeros", "mirror")
# Of the features that the auxiliary head reads: mmsegmentation's decoder level 3 of 5.
AUXILIARY_LEVEL = 1


def _twice(in_channels: int, channels: int, norm: bool, padding: int) -> Chain:
    """Two 3x3 convolutions, each with (a batch norm and) a ReLU."""
    layers: list[nn.Module] = []
    for given in (in_channels, channels):
        layers.append(nn.Conv2d(given, channels, 3, padding=padding, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return Chain(*layers)


class PlainUpBlock(nn.Module):
    """Doubles a map, concatenates it with the skip connection, and convolves twice.

    Args:
        in_channels: of the coarser map.
        channels: of the skip connection and of the result.
        upsampling: "bilinear" and a 1x1 convolution; "deconv4" and "deconv2": a transposed
            convolution of so many pixels.
        norm: whether convolutions have batch norms; of "deconv2" none.
        padding: of the 3x3 convolutions, 0 or 1.
    """

    def __init__(
        self, in_channels: int, channels: int, upsampling: str, norm: bool, padding: int
    ) -> None:
        super().__init__()
        self.is_resized = upsampling == "bilinear"
        activated = [*([nn.BatchNorm2d(channels)] if norm else []), nn.ReLU(inplace=True)]
        if self.is_resized:
            self.upsample: Any = Chain(
                nn.Conv2d(in_channels, channels, 1, bias=not norm), *activated
            )
        elif upsampling == "deconv4":
            self.deconv: Any = nn.Sequential(
                nn.ConvTranspose2d(in_channels, channels, 4, stride=2, padding=1), *activated
            )
        else:
            self.deconv = nn.ConvTranspose2d(in_channels, channels, 2, stride=2)
        self.convs = _twice(2 * channels, channels, norm, padding)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, h, w] and skip [N, channels, H, W] -> map [N, channels, H', W'].

        Of a skip connection that is larger than the doubled map, the middle counts.
        """
        size = (2 * x.shape[2], 2 * x.shape[3])
        if self.is_resized:
            up = convolve_resized([x], self.upsample, size)
        else:
            up = self.deconv(x)
        if skip.shape[2:] != up.shape[2:]:
            skip = crop(skip, (skip.shape[2] - size[0]) // 2, *size)
        return convolve_resized([skip, up], self.convs)


class PlainUNet(SegmentationModel):
    """U-Net of convolutions alone: by default mmsegmentation's UNet-S5-D16 with its FCN head.

    `PlainUNet.original` is the paper's. The names of `fastseg.Unet` are those of
    segmentation_models_pytorch, with an encoder.

    Args:
        classes: their number, or names and colours.
        in_channels: of the input.
        base_channels: of the finest level; they double with every halving.
        depth: levels, 2 to 8.
        upsampling: one of UPSAMPLINGS; see PlainUpBlock.
        norm: whether convolutions have batch norms.
        border: "zeros" around every map, or "mirror": the image is mirrored at its border, and
            convolutions have no padding, as in the paper.
        head_channels: of a 3x3 convolution before the classes; 0 for none.
        dropout: probability, of whole channels, before the classes.
        auxiliary_channels: of a second head on the features one halving below the finest but one,
            for `loss`; 0 for no such head.

    Images are padded to multiples of 2^(depth - 1), or with "mirror" to such a multiple plus 4.

    Raises:
        ValueError: an argument out of range.

    Source: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
    2015.
    """

    def __init__(
        self,
        classes: ClassSet | int = 1,
        in_channels: int = 3,
        base_channels: int = 64,
        depth: int = 5,
        upsampling: str = "bilinear",
        norm: bool = True,
        border: str = "zeros",
        head_channels: int = 64,
        dropout: float = 0.1,
        auxiliary_channels: int = 0,
    ) -> None:
        super().__init__()
        if not 2 <= depth <= 8:
            raise ValueError(f"depth is {depth}, allowed are 2 to 8")
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"upsampling is {upsampling!r}, allowed are {', '.join(UPSAMPLINGS)}")
        if border not in BORDERS:
            raise ValueError(f"border is {border!r}, allowed are {', '.join(BORDERS)}")
        for name, number in (("in_channels", in_channels), ("base_channels", base_channels)):
            if number < 1:
                raise ValueError(f"{name} is {number}, expected at least 1")
        if auxiliary_channels and depth < 4:
            raise ValueError(f"auxiliary_channels needs a depth of at least 4, depth is {depth}")
        self.classes = as_class_set(classes)
        count = len(self.classes)
        self.border, self.depth = border, depth
        padding = int(border == "zeros")
        self.size_step = 2 ** (depth - 1)
        if border == "mirror":  # the sizes whose poolings leave no row over: 388 in the paper
            self.size_offset = 4 % self.size_step
        widths = [base_channels << level for level in range(depth)]
        self.pool = nn.MaxPool2d(2, stride=2)
        self.down = nn.ModuleList(
            _twice(given, width, norm, padding)
            for given, width in zip((in_channels, *widths), widths, strict=False)
        )
        self.up = nn.ModuleList(
            PlainUpBlock(below, width, upsampling, norm, padding)
            for width, below in itertools.pairwise(widths)
        )
        self.head: nn.Module = nn.Identity()
        if head_channels:
            self.head = Chain(
                nn.Conv2d(base_channels, head_channels, 3, padding=1, bias=not norm),
                *([nn.BatchNorm2d(head_channels)] if norm else []),
                nn.ReLU(inplace=True),
            )
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(head_channels or base_channels, count, 1)
        self.auxiliary_head = (
            AuxiliaryHead(widths[AUXILIARY_LEVEL], auxiliary_channels, count)
            if auxiliary_channels
            else None
        )
        self._initialise()

    @classmethod
    def original(
        cls, classes: ClassSet | int = 2, in_channels: int = 1, **options: Any
    ) -> PlainUNet:
        """The paper's: transposed convolutions of 2x2, no norms, and the image mirrored.

        Args:
            classes, in_channels, options: of the constructor.
        """
        usual = {
            "upsampling": "deconv2",
            "norm": False,
            "border": "mirror",
            "head_channels": 0,
            "dropout": 0.0,
        }
        return cls(classes, in_channels, **{**usual, **options})

    def _initialise(self) -> None:
        """Random weights as the paper says: of a deviation of sqrt(2 / inputs)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)

    def margin(self) -> int:
        """Pixels of the mirrored border: 92 for the paper's depth of 5."""
        # Of every level two convolutions on the way down and two on the way up, a pixel each.
        return 6 * 2 ** (self.depth - 1) - 4 if self.border == "mirror" else 0

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, H, W] of x [N, in_channels, H, W], one for each pixel."""
        return self.classifier(self.dropout(self.head(self._levels(x)[0])))

    def training_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`coarse_logits` of x, and those of the auxiliary head if the model has one."""
        finest, auxiliary = self._levels(x)
        logits = self.classifier(self.dropout(self.head(finest)))
        return logits, None if self.auxiliary_head is None else self.auxiliary_head(auxiliary)

    def _levels(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder's finest features, and those that the auxiliary head reads."""
        y = mirrored(self.pad(x), self.margin())
        skips = []
        for level, layers in enumerate(self.down):
            y = layers(self.pool(y) if level else y)
            skips.append(y)
        auxiliary = y
        for level in range(self.depth - 2, -1, -1):
            y = self.up[level](y, skips[level])
            if level == AUXILIARY_LEVEL:
                auxiliary = y
        return y, auxiliary


def mirrored(x: torch.Tensor, margin: int) -> torch.Tensor:
    """x [N, C, H, W] with `margin` more rows and columns on every side, mirrored at the border."""
    if margin == 0:
        return x
    y = x
    for axis in (2, 3):
        side = x.shape[axis]
        period = max(1, 2 * (side - 1))
        positions = torch.arange(-margin, side + margin, device=x.device).remainder(period)
        y = y.index_select(axis, torch.minimum(positions, period - positions))
    return in_format(y, map_format(x))
