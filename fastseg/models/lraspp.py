"""LR-ASPP over any encoder, as torchvision has it over MobileNetV3."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..classes import ClassSet, as_class_set
from ..nn import Chain
from ..nn.heads import ActivationName
from ..ops.upsample_bilinear import upsample_bilinear
from .encoder_decoder import Decoder, ScoringModel
from .encoders import make_encoder

# Index of the finer features: of stride 8.
LOW = 3


class LRASPPDecoder(Decoder):
    """Scores of the last features, weighed by channel, and of those at stride 8, summed.

    The scores of the last features are computed at their own resolution and then upsampled: a 1x1
    convolution commutes with it.

    Args:
        low_channels, high_channels: of the features at stride 8 and of the last.
        channels: of the last features' reduction.
        classes: channels of the scores.
        align_corners: of the upsampling.
    """

    reads = (LOW, -1)

    def __init__(
        self,
        low_channels: int,
        high_channels: int,
        channels: int,
        classes: int,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.cbr = Chain(
            nn.Conv2d(high_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(high_channels, channels, 1, bias=False),
            nn.Sigmoid(),
        )
        self.low_classifier = nn.Conv2d(low_channels, classes, 1)
        self.high_classifier = nn.Conv2d(channels, classes, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> scores [N, classes, h, w] at stride 8."""
        high = features[-1]
        coarse = self.high_classifier(self.cbr(high) * self.scale(high))
        # A fused encoder may have its first features in another dtype than the others.
        scores = self.low_classifier(features[LOW].to(coarse.dtype))
        size = (scores.shape[2], scores.shape[3])
        return scores + upsample_bilinear(coarse, size, align_corners=self.align_corners)


class LRASPP(ScoringModel):
    """A dilated encoder and a light head: torchvision's lraspp_mobilenet_v3_large.

    Images of any size are taken as they are.

    Args:
        encoder_name: one of fastseg.models.ENCODERS. Of MobileNetV3 the features are those that
            torchvision reads, unless encoder_options say something else.
        encoder_depth: halvings of the encoder, 4 or 5.
        encoder_weights: None, or a file; see fastseg.models.make_encoder.
        encoder_output_stride: 8, 16 or 32: later halvings become dilation.
        decoder_channels: of the last features' reduction.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as first_blocks.
        align_corners: of every upsampling.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Howard et al., Searching for MobileNetV3, 2019, section 6.4.
    """

    def __init__(
        self,
        encoder_name: str = "mobilenet_v3_large",
        encoder_depth: int = 5,
        encoder_weights: str | None = None,
        encoder_output_stride: int = 16,
        decoder_channels: int = 128,
        in_channels: int = 3,
        classes: ClassSet | int = 21,
        activation: ActivationName = None,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        align_corners: bool = False,
    ) -> None:
        if encoder_depth not in (4, 5):
            raise ValueError(f"encoder_depth is {encoder_depth}, allowed are 4 and 5")
        usual = {"first_blocks": True} if encoder_name == "mobilenet_v3_large" else {}
        encoder = make_encoder(
            encoder_name,
            in_channels,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            **{**usual, **(encoder_options or {})},
        )
        classes = as_class_set(classes)
        widths = encoder.out_channels
        decoder = LRASPPDecoder(
            widths[LOW], widths[-1], decoder_channels, len(classes), align_corners
        )
        super().__init__(encoder, decoder, classes, activation, aux_params, align_corners)
