"""UNet over any encoder, as smp has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn.heads import ActivationName
from ..nn.norm import NormName
from ..nn.unet import UnetBlock, conv_norm_relu
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder


class UnetDecoder(Decoder):
    """From the coarsest features up to the size of the image, a block for every halving.

    Args:
        encoder_channels: of the encoder's features, the image's first.
        channels: of each block's result, the coarsest first.
        use_norm, attention, interpolation: as in fastseg.nn.UnetBlock.
        center: whether two convolutions come before the first block.
    """

    def __init__(
        self,
        encoder_channels: Sequence[int],
        channels: Sequence[int],
        use_norm: NormName = True,
        attention: str | None = None,
        interpolation: str = "nearest",
        center: bool = False,
    ) -> None:
        super().__init__()
        depth = len(encoder_channels) - 1
        self.reads = tuple(range(depth + 1))
        last, *others = encoder_channels[:0:-1]
        self.center: nn.Module = nn.Identity()
        if center:
            self.center = nn.Sequential(*(conv_norm_relu(last, last, use_norm) for _ in range(2)))
        self.blocks = nn.ModuleList(
            UnetBlock(above, skip, made, use_norm, attention, interpolation)
            for above, skip, made in zip(
                (last, *channels[:-1]), (*others, 0), channels, strict=True
            )
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, channels[-1], H, W] of the size of the first."""
        x = self.center(features[-1])
        for level, block in enumerate(self.blocks, 2):
            finer = features[-level]
            # A fused encoder may have its first features in another dtype than the others.
            skip = finer.to(x.dtype) if level < len(features) else None
            x = block(x, finer.shape[2], finer.shape[3], skip)
        return x


class Unet(EncoderDecoder):
    """An encoder, and a decoder that goes up to the size of the image over all of its features.

    Arguments, names of tensors and values are those of segmentation_models_pytorch, for images of
    any size, which are never padded.

    Args:
        encoder_name: one of fastseg.models.ENCODERS.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        decoder_use_norm: see fastseg.nn.make_norm.
        decoder_channels: of each block's result, the coarsest first: encoder_depth numbers.
        decoder_attention_type: None, or "scse": see fastseg.nn.UnetBlock.
        decoder_interpolation: "nearest", "bilinear", "bicubic", "area" or "nearest-exact".
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as stem_channels.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation,
    2015.
    """

    pads = False

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_use_norm: NormName = "batchnorm",
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
        decoder_attention_type: str | None = None,
        decoder_interpolation: str = "nearest",
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
    ) -> None:
        check_depth(encoder_depth)
        channels = tuple(decoder_channels)
        if len(channels) != encoder_depth or min(channels) < 1:
            raise ValueError(
                f"decoder_channels is {channels}, expected {encoder_depth} positive numbers, as "
                "encoder_depth has it"
            )
        encoder = make_encoder(
            encoder_name, in_channels, encoder_depth, encoder_weights, **(encoder_options or {})
        )
        decoder = UnetDecoder(
            encoder.out_channels,
            channels,
            decoder_use_norm,
            decoder_attention_type,
            decoder_interpolation,
            center=encoder_name.startswith("vgg"),
        )
        super().__init__(
            encoder, decoder, channels[-1], classes, 1, None, activation, aux_params, 3
        )
        self.initialise_decoder()
