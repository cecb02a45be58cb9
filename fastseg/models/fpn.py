"""FPN over any encoder, as smp has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..classes import ClassSet
from ..nn import Chain
from ..nn.heads import ActivationName
from ..ops.upsample_bilinear import upsample_bilinear
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder

Size = tuple[int, int]
GROUPS = 32  # of every norm


class GroupNormConv(nn.Module):
    """3x3 convolution, group norm and ReLU, then perhaps bilinear resizing."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.block = Chain(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor, size: Size | None = None) -> torch.Tensor:
        """Map [N, in_channels, h, w] -> map [N, channels, *size], or [N, channels, h, w]."""
        y = self.block(x)
        return y if size is None else upsample_bilinear(y, size, align_corners=True)


class GroupNormBlock(nn.Module):
    """From a level of the pyramid up to the finest one: a convolution for every doubling."""

    def __init__(self, in_channels: int, channels: int, doublings: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            GroupNormConv(channels if n else in_channels, channels)
            for n in range(max(1, doublings))
        )

    def forward(self, x: torch.Tensor, sizes: Sequence[Size]) -> torch.Tensor:
        """Map [N, in_channels, h, w] -> map [N, channels, H, W] of the last of the sizes."""
        for layers, size in zip(self.block, sizes or (None,), strict=True):
            x = layers(x, size)
        return x


class LevelBlock(nn.Module):
    """1x1 convolution of the features of a level, plus the coarser level's map, resized."""

    def __init__(self, channels: int, skip_channels: int, interpolation: str) -> None:
        super().__init__()
        self.skip_conv = nn.Conv2d(skip_channels, channels, 1)
        self.interpolation_mode = interpolation

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Maps [N, channels, h, w] and [N, skip_channels, H, W] -> map [N, channels, H, W]."""
        size = (skip.shape[2], skip.shape[3])
        # A fused encoder may have its first features in another dtype than the others.
        level = self.skip_conv(skip.to(x.dtype))
        if self.interpolation_mode == "bilinear":
            return upsample_bilinear(x, size) + level
        return F.interpolate(x, size, mode=self.interpolation_mode) + level


class FPNDecoder(Decoder):
    """Four levels from the coarsest up, each convolved up to the finest, merged.

    Args:
        encoder_channels: of the last four features, the finest first.
        pyramid_channels: of the levels. channels: of what is merged.
        merge: "add" or "cat".
        dropout: probability, of whole channels, at the end.
        interpolation: between the levels, as in F.interpolate.
    """

    reads = (-4, -3, -2, -1)

    def __init__(
        self,
        encoder_channels: Sequence[int],
        pyramid_channels: int,
        channels: int,
        merge: str,
        dropout: float,
        interpolation: str,
    ) -> None:
        super().__init__()
        if min(encoder_channels) < 1:
            raise ValueError("the encoder has no features at one of the last four strides")
        if merge not in ("add", "cat"):
            raise ValueError(f"decoder_merge_policy is {merge!r}, allowed are 'add' and 'cat'")
        if channels % GROUPS:
            raise ValueError(
                f"decoder_segmentation_channels is {channels}, expected a multiple of {GROUPS}"
            )
        self.merge_policy = merge
        *skips, last = encoder_channels
        self.p5 = nn.Conv2d(last, pyramid_channels, 1)
        for level, skip in zip((4, 3, 2), skips[::-1], strict=True):
            self.add_module(f"p{level}", LevelBlock(pyramid_channels, skip, interpolation))
        self.seg_blocks = nn.ModuleList(
            GroupNormBlock(pyramid_channels, channels, doublings) for doublings in (3, 2, 1, 0)
        )
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, C, H, W] of the size of the fourth from the end."""
        sizes = [(f.shape[2], f.shape[3]) for f in features[-4:]]
        y = self.p5(features[-1])
        parts = [self.seg_blocks[0](y, sizes[2::-1])]
        for index, level in enumerate((4, 3, 2), 1):
            y = self.get_submodule(f"p{level}")(y, features[level - 6])
            parts.append(self.seg_blocks[index](y, sizes[: 3 - index][::-1]))
        if self.merge_policy == "cat":
            return self.dropout(torch.cat(parts, 1))
        total, *others = parts
        for part in others:
            total = total + part
        return self.dropout(total)


class FPN(EncoderDecoder):
    """An encoder, a pyramid of its last four features, and their sum at the finest of them.

    Arguments, names of tensors and values are those of segmentation_models_pytorch.

    Args:
        encoder_name: one of fastseg.models.ENCODERS.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        decoder_pyramid_channels: of the pyramid's levels.
        decoder_segmentation_channels: of what is merged, a multiple of 32.
        decoder_merge_policy: "add" or "cat".
        decoder_dropout: probability, of whole channels, before the classes.
        decoder_interpolation: between the levels, as in F.interpolate.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        upsampling: from the coarse logits to the output; 4 for the size of the input, where
            encoder_depth is 5.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as stem_channels.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks, 2019.
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_pyramid_channels: int = 256,
        decoder_segmentation_channels: int = 128,
        decoder_merge_policy: str = "add",
        decoder_dropout: float = 0.2,
        decoder_interpolation: str = "nearest",
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        upsampling: int = 4,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
    ) -> None:
        check_depth(encoder_depth)
        encoder = make_encoder(
            encoder_name, in_channels, encoder_depth, encoder_weights, **(encoder_options or {})
        )
        decoder = FPNDecoder(
            encoder.out_channels[-4:],
            decoder_pyramid_channels,
            decoder_segmentation_channels,
            decoder_merge_policy,
            decoder_dropout,
            decoder_interpolation,
        )
        channels = decoder_segmentation_channels * (4 if decoder_merge_policy == "cat" else 1)
        super().__init__(
            encoder,
            decoder,
            channels,
            classes,
            2 ** (encoder_depth - 3),
            upsampling,
            activation,
            aux_params,
        )
        self.initialise_decoder()
