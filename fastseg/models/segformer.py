"""SegFormer, as smp and transformers have it, and as mmsegmentation has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet
from ..nn import Chain
from ..nn.altered import original_class, why_not_short
from ..nn.heads import ActivationName
from ..nn.mlp_head import run_mlp, unusual_mlp
from ..nn.resized import begins_with, run_resized
from ..ops.upsample_bilinear import upsample_bilinear
from .encoder_decoder import Decoder, EncoderDecoder, check_depth
from .encoders import make_encoder


class MLP(nn.Module):
    """A linear layer at every pixel of a map."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H, W]."""
        return self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SegFormerDecoder(Decoder):
    """A layer per level, all levels resized to stride 4 and concatenated, a 1x1 convolution.

    Args:
        encoder_channels: of the encoder's features, the image first.
        out_channels: of every level and of their fusion.
        dropout: probability after the fusion.
        normed: 1x1 convolution, batch norm and ReLU per level instead of a linear layer; the levels
            are then concatenated finest first, and dropout is of whole channels.
    """

    def __init__(
        self, encoder_channels: Sequence[int], out_channels: int, dropout: float, normed: bool
    ) -> None:
        super().__init__()
        levels = [i for i, channels in enumerate(encoder_channels) if i > 0 and channels > 0]
        self.reads = tuple(levels if normed else levels[::-1])
        self.normed = normed
        self.mlp_stage = nn.ModuleList(
            _conv_norm_relu(encoder_channels[i], out_channels)
            if normed
            else MLP(encoder_channels[i], out_channels)
            for i in self.reads
        )
        self.fuse_stage: Any = _conv_norm_relu(len(levels) * out_channels, out_channels)
        self.dropout = nn.Dropout2d(dropout) if normed else nn.Dropout(dropout)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> map [N, out_channels, h, w] of the size at stride 4."""
        size = (features[2].shape[2], features[2].shape[3])
        levels = [features[i] for i in self.reads]
        if self.normed:
            levels = [layer(x) for layer, x in zip(self.mlp_stage, levels, strict=True)]
            if why_not_short(self, _normed_skips, _normed_unfit) is None:
                return self.dropout(run_resized(levels, self.fuse_stage, size))
        elif why_not_short(self, _skips, _unfit) is None:
            # A level finer than stride 4 has fewer channels before its layer than after it.
            levels = [_not_finer(x, size) for x in levels]
            linears = [layer.linear for layer in self.mlp_stage]
            return self.dropout(run_mlp(levels, linears, self.fuse_stage))
        else:
            levels = [layer(x) for layer, x in zip(self.mlp_stage, levels, strict=True)]
        resized = [upsample_bilinear(x, size) for x in levels]
        return self.dropout(self.fuse_stage(torch.cat(resized, 1)))


def _conv_norm_relu(in_channels: int, out_channels: int) -> Chain:
    return Chain(
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _not_finer(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return upsample_bilinear(x, size) if x.shape[2] > size[0] or x.shape[3] > size[1] else x


def _skips(decoder: Any) -> Iterable[nn.Module]:
    linears = [layer.linear for layer in decoder.mlp_stage]
    return *decoder.mlp_stage, *linears, decoder.fuse_stage, decoder.fuse_stage[0]


def _unfit(decoder: Any) -> str | None:
    for layer in decoder.mlp_stage:
        if original_class(layer) is not MLP:
            return f"a {original_class(layer).__name__} is inside"
    linears = [layer.linear for layer in decoder.mlp_stage]
    return unusual_mlp(linears, decoder.fuse_stage[0]) or begins_with(decoder.fuse_stage)


def _normed_skips(decoder: Any) -> Iterable[nn.Module]:
    return decoder.fuse_stage, decoder.fuse_stage[0]


def _normed_unfit(decoder: Any) -> str | None:
    return begins_with(decoder.fuse_stage)


class SegFormer(EncoderDecoder):
    """A hierarchical transformer and a decoder of linear layers.

    By default arguments, names of tensors and values are those of segmentation_models_pytorch,
    where it is called Segformer. What transformers and mmsegmentation do differently are the
    arguments after the star; `load_checkpoint` and `from_pretrained` set them.

    With align_corners=False images of any size are taken as they are, as in those two libraries.
    With True they are padded to multiples of the encoder's output stride, since smp refuses others.

    Args:
        encoder_name: one of fastseg.models.ENCODERS; mit_b0 to mit_b5 are SegFormer's own.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        decoder_segmentation_channels: of every level and of their fusion: 256 for B0 and B1, 768
            for B2 to B5 in the paper.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        upsampling: from the coarse logits to the output; 4 or None for the size of the input.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as drop_path_rate.
        decoder_dropout: probability after the fusion; 0.1 in transformers and mmsegmentation.
        decoder_normed: mmsegmentation's head: convolution, batch norm and ReLU per level.
        align_corners: of the upsampling of the logits.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with
    Transformers, 2021.
    """

    smp_name = "Segformer"

    def __init__(
        self,
        encoder_name: str = "resnet34",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        decoder_segmentation_channels: int = 256,
        in_channels: int = 3,
        classes: ClassSet | int = 1,
        activation: ActivationName = None,
        upsampling: int | None = 4,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        decoder_dropout: float = 0.0,
        decoder_normed: bool = False,
        align_corners: bool = True,
    ) -> None:
        check_depth(encoder_depth)
        encoder = make_encoder(
            encoder_name, in_channels, encoder_depth, encoder_weights, **(encoder_options or {})
        )
        decoder = SegFormerDecoder(
            encoder.out_channels, decoder_segmentation_channels, decoder_dropout, decoder_normed
        )
        super().__init__(
            encoder,
            decoder,
            decoder_segmentation_channels,
            classes,
            4,
            upsampling,
            activation,
            aux_params,
            align_corners=align_corners,
        )
        if not align_corners:
            self.size_step = 1
        self.initialise_decoder()


# The name that segmentation_models_pytorch has for it.
Segformer = SegFormer
