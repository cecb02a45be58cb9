"""DeepLabV3 and DeepLabV3+."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn import ASPP, Chain, SeparableConv2d
from ..nn.altered import original_class, why_not_short
from ..nn.chain import is_sequence, run
from ..nn.heads import ActivationName
from ..nn.resized import begins_with, run_resized, run_separable, separable
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_conv2d.plan import separable_pays
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder

# Channels that DeepLabV3+ reduces the features at stride 4 to: so few that they do not outweigh
# the others. Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution, 2018, 4.1.
LOW_LEVEL_CHANNELS = 48


class DeepLabV3Decoder(Decoder):
    """ASPP, then (unless `refine` is False) 3x3 convolution, batch norm and ReLU."""

    reads = (-1,)
    chains: tuple[tuple[str, ...], ...] = (("conv", "bn", "relu"),)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int],
        separable: bool,
        dropout: float,
        refine: bool = True,
        pooled_first: bool = False,
        project_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.refine = refine
        self.aspp = ASPP(
            in_channels, out_channels, rates, separable, dropout, pooled_first, project_kernel
        )
        if not refine:
            self.chains = ()
            return
        self.conv = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, out_channels, h, w] of the size of the last."""
        y = self.aspp(features[-1])
        return run(y, self.conv, self.bn, self.relu) if self.refine else y


class DeepLabV3PlusDecoder(Decoder):
    """ASPP, upsampled and fused with the features at stride 4."""

    reads = (2, -1)

    def __init__(
        self,
        encoder_channels: Sequence[int],
        out_channels: int,
        rates: Sequence[int],
        separable: bool,
        dropout: float,
        refine: bool = True,
        dense: bool = False,
        low_level_first: bool = False,
        align_corners: bool = True,
        aspp_pooled_first: bool = False,
        aspp_project_kernel: int = 1,
        separable_norm: bool = False,
        fusions: int = 1,
    ) -> None:
        super().__init__()
        if fusions < 1:
            raise ValueError(f"decoder_fusions is {fusions}, expected at least 1")
        self.dense = dense
        self.low_level_first = low_level_first
        self.align_corners = align_corners
        refinement = (
            SeparableConv2d(out_channels, out_channels),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )
        self.aspp = nn.Sequential(
            ASPP(
                encoder_channels[-1],
                out_channels,
                rates,
                separable,
                dropout,
                aspp_pooled_first,
                aspp_project_kernel,
                separable_norm,
            ),
            *(refinement if refine else ()),
        )
        self.block1 = Chain(
            nn.Conv2d(encoder_channels[2], LOW_LEVEL_CHANNELS, 1, bias=False),
            nn.BatchNorm2d(LOW_LEVEL_CHANNELS),
            nn.ReLU(inplace=True),
        )
        channels = LOW_LEVEL_CHANNELS + out_channels
        layers: list[nn.Module] = []
        for _ in range(fusions):
            layers += [
                nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
                if dense
                else SeparableConv2d(channels, out_channels, norm=separable_norm),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels = out_channels
        self.block2 = Chain(*layers)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, out_channels, h, w] of the size at stride 4."""
        low = self.block1(features[2])
        size = (low.shape[2], low.shape[3])
        high = self.aspp(features[-1])
        parts = [low, high] if self.low_level_first else [high, low]
        if self.dense and why_not_short(self, _dense_skips, _dense_unfit) is None:
            return run_resized(parts, self.block2, size, align_corners=self.align_corners)
        if (
            not self.dense
            and why_not_short(self, _separable_skips, _separable_unfit) is None
            and self._is_cheaper(high, size)
        ):
            return run_separable(parts, self.block2, self.align_corners)
        high = upsample_bilinear(high, size, align_corners=self.align_corners)
        return self.block2(torch.cat([low, high] if self.low_level_first else [high, low], dim=1))

    def _is_cheaper(self, high: torch.Tensor, size: tuple[int, int]) -> bool:
        """Whether multiplying block2's two weights costs less than resizing before them."""
        layers: Any = self.block2
        weight = layers[0][1].weight[:, : high.shape[1]]
        return not self.low_level_first and separable_pays(high, weight, list(size))


def _dense_skips(decoder: Any) -> Iterable[nn.Module]:
    return decoder.block2, decoder.block2[0]


def _dense_unfit(decoder: Any) -> str | None:
    return begins_with(decoder.block2)


def _separable_skips(decoder: Any) -> Iterable[nn.Module]:
    convolutions = decoder.block2[0]
    return decoder.block2, convolutions, *convolutions


def _separable_unfit(decoder: Any) -> str | None:
    block, convolutions = decoder.block2, decoder.block2[0]
    if not is_sequence(block) or not is_sequence(convolutions):
        return f"a {original_class(convolutions).__name__} is no separable convolution"
    if len(convolutions) != 2:
        return "a norm between its convolutions does not commute with the upsampling"
    return separable(*convolutions)


class DeepLabV3(EncoderDecoder):
    """A dilated encoder and atrous spatial pyramid pooling.

    Arguments, names of tensors and values are those of segmentation_models_pytorch.

    Args:
        encoder_name: one of fastseg.models.ENCODERS.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        encoder_output_stride: 8 or 16.
        decoder_channels: of every branch and of their projection.
        decoder_atrous_rates: dilations of the three branches, whatever the output stride.
        decoder_aspp_separable: depthwise and pointwise convolutions in the branches.
        decoder_aspp_dropout: probability, after the projection.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        upsampling: from the coarse logits to the output; None for the size of the input.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as contract_dilation.
        auxiliary_channels: of a second head on the features before the last, for `loss`; None for
            no such head.
        align_corners: of the upsampling of the logits.
        decoder_refine: a 3x3 convolution after the projection.
        aspp_pooled_first, aspp_project_kernel: see fastseg.nn.ASPP.
        auxiliary_level: index of the features that the second head reads.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Chen et al., Rethinking Atrous Convolution, 2017.
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        encoder_output_stride: int = 8,
        decoder_channels: int = 256,
        decoder_atrous_rates: Sequence[int] = (12, 24, 36),
        decoder_aspp_separable: bool = False,
        decoder_aspp_dropout: float = 0.5,
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        upsampling: int | None = None,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        auxiliary_channels: int | None = None,
        align_corners: bool = True,
        decoder_refine: bool = True,
        aspp_pooled_first: bool = False,
        aspp_project_kernel: int = 1,
        auxiliary_level: int = -2,
    ) -> None:
        _check_encoder(encoder_depth, encoder_output_stride)
        encoder = make_encoder(
            encoder_name,
            in_channels,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            **(encoder_options or {}),
        )
        decoder = DeepLabV3Decoder(
            encoder.out_channels[-1],
            decoder_channels,
            decoder_atrous_rates,
            decoder_aspp_separable,
            decoder_aspp_dropout,
            decoder_refine,
            aspp_pooled_first,
            aspp_project_kernel,
        )
        super().__init__(
            encoder,
            decoder,
            decoder_channels,
            classes,
            encoder.output_stride,
            upsampling,
            activation,
            aux_params,
            align_corners=align_corners,
        )
        if not -encoder_depth <= auxiliary_level <= encoder_depth:
            raise ValueError(
                f"auxiliary_level is {auxiliary_level}, expected the index of one of the "
                f"{encoder_depth + 1} features"
            )
        if not align_corners:
            self._take_any_size()
        self._add_auxiliary_head(auxiliary_channels, auxiliary_level)


class DeepLabV3Plus(EncoderDecoder):
    """DeepLabV3 whose decoder also reads the features at stride 4.

    Arguments, names of tensors and values are those of segmentation_models_pytorch.

    Args:
        encoder_name: one of fastseg.models.ENCODERS.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        encoder_output_stride: 8 or 16.
        decoder_channels: of every branch, of their projection and of the decoder.
        decoder_atrous_rates: dilations of the three branches, whatever the output stride.
        decoder_aspp_separable: depthwise and pointwise convolutions in the branches.
        decoder_aspp_dropout: probability, after the projection.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        upsampling: from the coarse logits to the output; 4 for the size of the input.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as contract_dilation.
        align_corners: of every upsampling.
        decoder_refine: a separable convolution between the projection and the upsampling.
        decoder_dense: a dense 3x3 convolution instead of a separable one at the end.
        low_level_first: concatenated as [features at stride 4, upsampled], not the other way.
        auxiliary_channels: of a second head on the features before the last, for `loss`; None for
            no such head.
        aspp_pooled_first, aspp_project_kernel: see fastseg.nn.ASPP.
        decoder_separable_norm: batch norm and ReLU inside every separable convolution.
        decoder_fusions: 3x3 convolutions, each with batch norm and ReLU, after the concatenation.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Chen et al., Encoder-Decoder with Atrous Separable Convolution, 2018.
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        encoder_output_stride: int = 16,
        decoder_channels: int = 256,
        decoder_atrous_rates: Sequence[int] = (12, 24, 36),
        decoder_aspp_separable: bool = True,
        decoder_aspp_dropout: float = 0.5,
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        upsampling: int = 4,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        align_corners: bool = True,
        decoder_refine: bool = True,
        decoder_dense: bool = False,
        low_level_first: bool = False,
        auxiliary_channels: int | None = None,
        aspp_pooled_first: bool = False,
        aspp_project_kernel: int = 1,
        decoder_separable_norm: bool = False,
        decoder_fusions: int = 1,
    ) -> None:
        _check_encoder(encoder_depth, encoder_output_stride)
        encoder = make_encoder(
            encoder_name,
            in_channels,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            **(encoder_options or {}),
        )
        decoder = DeepLabV3PlusDecoder(
            encoder.out_channels,
            decoder_channels,
            decoder_atrous_rates,
            decoder_aspp_separable,
            decoder_aspp_dropout,
            decoder_refine,
            decoder_dense,
            low_level_first,
            align_corners,
            aspp_pooled_first,
            aspp_project_kernel,
            decoder_separable_norm,
            decoder_fusions,
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
        if not align_corners:
            self._take_any_size()
        self._add_auxiliary_head(auxiliary_channels)


def _check_encoder(depth: int, output_stride: int) -> None:
    check_depth(depth)
    if output_stride not in (8, 16):
        raise ValueError(f"encoder_output_stride is {output_stride}, allowed are 8 and 16")
