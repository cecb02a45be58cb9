"""UPerNet, as smp has it, and as mmsegmentation and transformers have it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn.heads import ActivationName
from ..nn.norm import NormName
from ..nn.upernet import FeaturePyramid
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder


class UPerNetDecoder(FeaturePyramid, Decoder):
    """Pooled averages of the coarsest features, and a feature pyramid of all from stride 4 on."""

    def __init__(
        self,
        encoder_channels: Sequence[int],
        out_channels: int,
        bins: Sequence[int],
        use_norm: NormName,
        norm_eps: float | None,
        dropout: float,
    ) -> None:
        super().__init__(encoder_channels[2:], out_channels, bins, use_norm, norm_eps)
        self.reads = tuple(range(2, len(encoder_channels)))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, out_channels, h, w] of the size at stride 4."""
        return self.dropout(super().forward(features[2:]))


class UPerNet(EncoderDecoder):
    """A feature pyramid whose top has pooled averages beside it.

    By default arguments, names of tensors and values are those of segmentation_models_pytorch. What
    mmsegmentation and transformers do differently are the arguments after the star.

    With align_corners=False images of any size are taken as they are, as in those two libraries.
    With True they are padded to multiples of the encoder's output stride, since smp refuses others.

    Args:
        encoder_name: one of fastseg.models.ENCODERS, or "tu-" and a name of timm.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        decoder_channels: of every convolution: 512 in the two other libraries.
        decoder_use_norm: see fastseg.nn.make_norm; the convolution after the pooling has a batch
            norm always.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        upsampling: from the coarse logits to the output; 4 or None for the size of the input.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder.
        decoder_feature_norm_eps: of a layer norm of the encoder's features; None for no norm.
        decoder_dropout: probability of whole channels, after the fusion; 0.1 in mmsegmentation.
        psp_bins: cells per side of each grid.
        auxiliary_channels: of a second head on the features before the last, for `loss`; None for
            no such head, 256 in the two other libraries.
        align_corners: of the upsampling of the logits.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Xiao et al., Unified Perceptual Parsing for Scene Understanding, 2018.
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_channels: int = 256,
        decoder_use_norm: NormName = "batchnorm",
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        upsampling: int | None = 4,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        decoder_feature_norm_eps: float | None = 1e-6,
        decoder_dropout: float = 0.0,
        psp_bins: Sequence[int] = (1, 2, 3, 6),
        auxiliary_channels: int | None = None,
        align_corners: bool = True,
    ) -> None:
        check_depth(encoder_depth)
        encoder = make_encoder(
            encoder_name, in_channels, encoder_depth, encoder_weights, **(encoder_options or {})
        )
        decoder = UPerNetDecoder(
            encoder.out_channels,
            decoder_channels,
            psp_bins,
            decoder_use_norm,
            decoder_feature_norm_eps,
            decoder_dropout,
        )
        super().__init__(
            encoder,
            decoder,
            decoder_channels,
            classes,
            4,
            upsampling,
            activation,
            aux_params,
            align_corners=align_corners,
        )
        self._add_auxiliary_head(auxiliary_channels)
        if not align_corners:
            self.size_step = 1
        self.initialise_decoder()
