"""PSPNet, as smp has it and as the paper has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn import PyramidPooling
from ..nn.altered import original_class, why_not_short
from ..nn.heads import ActivationName
from ..nn.norm import NormName, make_norm
from ..nn.pyramid import pyramid_convolution, pyramid_skips, pyramid_unfit
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder


class PSPDecoder(Decoder):
    """Pyramid pooling, then a convolution, norm, ReLU and dropout of channels."""

    reads = (-1,)

    def __init__(
        self,
        pyramid: PyramidPooling,
        out_channels: int,
        kernel_size: int,
        use_norm: NormName,
        dropout: float,
    ) -> None:
        super().__init__()
        self.psp = pyramid
        norm = make_norm(use_norm, out_channels)
        convolution = nn.Conv2d(
            pyramid.out_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            bias=isinstance(norm, nn.Identity),
        )
        self.conv: Any = nn.Sequential(convolution, norm, nn.ReLU(inplace=True))
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, out_channels, h, w] of the size of the last."""
        x = features[-1]
        if why_not_short(self, _skips, _unfit) is None:
            return self.dropout(self.psp.run(x, self.conv))
        return self.dropout(self.conv(self.psp(x)))


def _skips(decoder: Any) -> Iterable[nn.Module]:
    """The modules that the decoder does not call."""
    return decoder.psp, *pyramid_skips(decoder.psp), decoder.conv, decoder.conv[0]


def _unfit(decoder: Any) -> str | None:
    if type(decoder.psp) is not PyramidPooling:
        return f"its pyramid is a {original_class(decoder.psp).__name__}"
    return pyramid_unfit(decoder.psp) or pyramid_convolution(decoder.conv)


class PSPNet(EncoderDecoder):
    """An encoder and pyramid pooling.

    By default arguments, names of tensors and values are those of segmentation_models_pytorch: an
    encoder cut at stride 8, without dilation. The stages after the cut, which smp builds and never
    uses, are not built; loading a state dict that has them says so. `PSPNet.dilated` is the network
    of the paper; its arguments come after the star.

    Args:
        encoder_name: one of fastseg.models.ENCODERS.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        encoder_depth: halvings of the encoder, 3 to 5.
        psp_out_channels: of the convolution after the pooling.
        decoder_use_norm: see fastseg.nn.make_norm.
        psp_dropout: probability, of whole channels.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        upsampling: from the coarse logits to the output; None for the size of the input.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_output_stride: 8, 16 or 32: later halvings become dilation.
        encoder_options: further arguments of the encoder, such as stem_channels.
        psp_bins: cells per side of each grid.
        psp_kernel_size: of the convolution after the pooling.
        psp_norm_of_one: whether the branch of one cell has a norm too.
        psp_input_first: concatenated as [x, branches] instead of [branches, x].
        head_kernel_size: of the convolution to the classes.
        auxiliary_channels: of a second head on the features before the last, for `loss`; None for
            no such head.
        align_corners: of every upsampling.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017.
    """

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        encoder_depth: int = 3,
        psp_out_channels: int = 512,
        decoder_use_norm: NormName = "batchnorm",
        psp_dropout: float = 0.2,
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        upsampling: int | None = 8,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_output_stride: int = 32,
        encoder_options: dict[str, Any] | None = None,
        psp_bins: Sequence[int] = (1, 2, 3, 6),
        psp_kernel_size: int = 1,
        psp_norm_of_one: bool = False,
        psp_input_first: bool = False,
        head_kernel_size: int = 3,
        auxiliary_channels: int | None = None,
        align_corners: bool = True,
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
        channels = encoder.out_channels[-1]
        pyramid = PyramidPooling(
            channels,
            channels // len(tuple(psp_bins)),
            psp_bins,
            decoder_use_norm,
            psp_norm_of_one,
            psp_input_first,
            align_corners,
        )
        decoder = PSPDecoder(
            pyramid, psp_out_channels, psp_kernel_size, decoder_use_norm, psp_dropout
        )
        super().__init__(
            encoder,
            decoder,
            psp_out_channels,
            classes,
            encoder.output_stride,
            upsampling,
            activation,
            aux_params,
            head_kernel_size,
            align_corners,
        )
        if not align_corners and self.upsampling == self.logits_stride:
            self._take_any_size()
        self._add_auxiliary_head(auxiliary_channels)
        self.initialise_decoder()

    @classmethod
    def dilated(cls, encoder_name: str = "resnet50", **arguments: Any) -> PSPNet:
        """The network of the paper: a ResNet dilated to stride 8, with an auxiliary loss.

        Three 3x3 convolutions at the start, pools after the map, a 3x3 convolution after the
        pooling, and a second head on the stage before the last. All arguments of the constructor
        can be given; its weights are random unless encoder_weights says otherwise.
        """
        paper = {
            "encoder_weights": None,
            "encoder_depth": 5,
            "psp_dropout": 0.1,
            "encoder_output_stride": 8,
            "encoder_options": {"stem_channels": (64, 64, 128)},
            "psp_kernel_size": 3,
            "psp_norm_of_one": True,
            "psp_input_first": True,
            "head_kernel_size": 1,
            "auxiliary_channels": 256,
        }
        return cls(encoder_name, **{**paper, **arguments})
