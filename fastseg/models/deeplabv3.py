"""DeepLabV3 and DeepLabV3+."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn import ASPP, AuxiliaryHead, Chain, SeparableConv2d, upsample_separable_conv2d
from ..nn.chain import can_be_folded, folded_parameters, has_no_hooks, run_chain
from ..nn.heads import ActivationName
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_conv2d import upsample_conv2d
from ..ops.upsample_conv2d.plan import separable_pays
from .encoder_decoder import Decoder, EncoderDecoder
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
        return run_chain(y, self.conv, self.bn, self.relu) if self.refine else y


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
        size = [low.shape[2], low.shape[3]]
        high = self.aspp(features[-1])
        if self.dense:
            return self._dense(high, low)
        if self._commutes(high, size):
            return self._fused(high, low)
        high = upsample_bilinear(high, (size[0], size[1]), align_corners=self.align_corners)
        return self.block2(torch.cat([low, high] if self.low_level_first else [high, low], dim=1))

    def _dense(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """block2 with a dense convolution, of which each map's share is its own."""
        modules: Any = self.block2
        convolution, *after = modules
        parts = [low, high] if self.low_level_first else [high, low]
        y = upsample_conv2d(
            parts,
            convolution.weight,
            convolution.bias,
            size=(low.shape[2], low.shape[3]),
            align_corners=self.align_corners,
        )
        return run_chain(y, *after)

    def _commutes(self, high: torch.Tensor, size: list[int]) -> bool:
        """Whether block2 may be computed by its weights, and is cheaper before the resize."""
        modules: Any = self.block2
        if self.low_level_first or len(modules[0]) != 2:  # with a norm in between it does not
            return False
        return has_no_hooks(*modules.modules()) and separable_pays(
            high, modules[0][1].weight[:, : high.shape[1]], size
        )

    def _fused(self, high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
        """block2 of both maps at the size of the second, which are neither resized nor joined."""
        modules: Any = self.block2
        (depthwise, pointwise), norm, relu, *after = modules
        weight, bias = pointwise.weight, pointwise.bias
        if not torch.is_grad_enabled() and can_be_folded(pointwise, norm):
            weight, bias = folded_parameters(pointwise, norm)
            norm = nn.Identity()
        parts = [high, low]
        y = upsample_separable_conv2d(
            parts, depthwise.weight, weight, bias, align_corners=self.align_corners
        )
        return run_chain(relu(norm(y)), *after)


class _DeepLab(EncoderDecoder):
    """What the two have in common: perhaps a second head, for training."""

    auxiliary_head: AuxiliaryHead | None

    def _add_auxiliary_head(self, channels: int | None) -> None:
        count = self.encoder.out_channels[-2]
        self.auxiliary_head = (
            AuxiliaryHead(count, channels, len(self.classes)) if channels else None
        )

    def training_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`coarse_logits` of x, and those of the auxiliary head if the model has one."""
        features = self.encoder(self.pad(x))
        auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(features[-2])
        return self.decode(features), auxiliary


class DeepLabV3(_DeepLab):
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
        )
        self.align_corners = align_corners
        self._add_auxiliary_head(auxiliary_channels)


class DeepLabV3Plus(_DeepLab):
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
            encoder, decoder, decoder_channels, classes, 4, upsampling, activation, aux_params
        )
        self.align_corners = align_corners
        self._add_auxiliary_head(auxiliary_channels)


def _check_encoder(depth: int, output_stride: int) -> None:
    if not 3 <= depth <= 5:
        raise ValueError(f"encoder_depth is {depth}, allowed are 3 to 5")
    if output_stride not in (8, 16):
        raise ValueError(f"encoder_output_stride is {output_stride}, allowed are 8 and 16")
