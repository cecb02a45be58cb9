"""FCN over a dilated encoder, as torchvision and mmsegmentation have it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn import Chain
from ..nn.heads import ActivationName
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder


class FCNDecoder(Decoder):
    """Convolutions, each with batch norm and ReLU, on the last features.

    Args:
        in_channels: of the features.
        channels: of every convolution.
        convolutions: how many, at least 1.
        kernel_size: of each, odd.
        dilation: of those before the concatenation.
        concat: one more convolution over the features concatenated with what the others made.
        dropout: probability, at the end.
        dropout_of_channels: of whole channels, not of single values.
    """

    reads = (-1,)

    def __init__(
        self,
        in_channels: int,
        channels: int,
        convolutions: int = 1,
        kernel_size: int = 3,
        dilation: int = 1,
        concat: bool = False,
        dropout: float = 0.1,
        dropout_of_channels: bool = False,
    ) -> None:
        super().__init__()
        if convolutions < 1:
            raise ValueError(f"decoder_convolutions is {convolutions}, expected at least 1")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"decoder_kernel_size is {kernel_size}, expected an odd number")

        def layers(given: int, rate: int) -> Chain:
            padding = kernel_size // 2 * rate
            return Chain(
                nn.Conv2d(given, channels, kernel_size, padding=padding, dilation=rate, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )

        self.convs = nn.Sequential(
            *(layers(channels if n else in_channels, dilation) for n in range(convolutions))
        )
        self.conv_cat = layers(in_channels + channels, 1) if concat else None
        self.dropout = nn.Dropout2d(dropout) if dropout_of_channels else nn.Dropout(dropout)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, channels, h, w] of the size of the last."""
        x = features[-1]
        y = self.convs(x)
        if self.conv_cat is not None:
            y = self.conv_cat(torch.cat([x, y], dim=1))
        return self.dropout(y)


class FCN(EncoderDecoder):
    """A dilated encoder and a few convolutions, upsampled to the size of the image.

    By default torchvision's fcn_resnet50, without its auxiliary head: that is computed only in
    `loss`, and if auxiliary_channels are given. Images of any size are taken as they are.

    Args:
        encoder_name: one of fastseg.models.ENCODERS.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        encoder_output_stride: 8, 16 or 32: later halvings become dilation.
        decoder_channels: of every convolution; None for a quarter of the features'.
        decoder_convolutions, decoder_kernel_size, decoder_dilation: of the decoder.
        decoder_concat: one more convolution over the features and what the others made of them.
        decoder_dropout: probability, before the classes.
        decoder_dropout_of_channels: of whole channels, not of single values.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as contract_dilation.
        auxiliary_channels: of a second head on the features before the last, for `loss`; None for
            no such head.
        align_corners: of the upsampling.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Long et al., Fully Convolutional Networks, 2015; torchvision.models.segmentation.
    """

    pads = False

    def __init__(
        self,
        encoder_name: str = "resnet50",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        encoder_output_stride: int = 8,
        decoder_channels: int | None = None,
        decoder_convolutions: int = 1,
        decoder_kernel_size: int = 3,
        decoder_dilation: int = 1,
        decoder_concat: bool = False,
        decoder_dropout: float = 0.1,
        decoder_dropout_of_channels: bool = False,
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        auxiliary_channels: int | None = None,
        align_corners: bool = False,
    ) -> None:
        check_depth(encoder_depth)
        encoder = make_encoder(
            encoder_name,
            in_channels,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            **(encoder_options or {}),
        )
        last = encoder.out_channels[-1]
        channels = max(1, last // 4) if decoder_channels is None else decoder_channels
        decoder = FCNDecoder(
            last,
            channels,
            decoder_convolutions,
            decoder_kernel_size,
            decoder_dilation,
            decoder_concat,
            decoder_dropout,
            decoder_dropout_of_channels,
        )
        super().__init__(
            encoder,
            decoder,
            channels,
            classes,
            encoder.output_stride,
            None,
            activation,
            aux_params,
            align_corners=align_corners,
        )
        self._take_any_size()
        self._add_auxiliary_head(auxiliary_channels)
