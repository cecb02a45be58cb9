"""DeepLab v1 (LargeFOV) and v2: a dilated encoder whose atrous classifiers are summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet, as_class_set
from ..nn import Chain
from ..nn.heads import ActivationName
from ..ops.upsample_bilinear import upsample_bilinear
from .encoder_decoder import Decoder, ScoringModel, check_depth
from .encoders import make_encoder


class AtrousClassifiers(Decoder):
    """Classifiers of different dilations on the last features, whose scores are summed.

    Args:
        in_channels: of the features.
        classes: channels of the scores.
        rates: dilation of each classifier's 3x3 convolution.
        hidden: None for classifiers of that convolution alone; a number for VGG's layers: the
            convolution to so many channels, a 1x1 convolution, and one to the classes, with ReLU
            and dropout between them.
        dropout: probability, between the layers.

    Raises:
        ValueError: no rates, or one below 1.
    """

    reads = (-1,)

    def __init__(
        self,
        in_channels: int,
        classes: int,
        rates: Sequence[int],
        hidden: int | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(
                f"decoder_atrous_rates is {tuple(rates)}, expected dilations of at least 1"
            )
        self.branches = nn.ModuleList(
            _classifier(in_channels, classes, rate, hidden, dropout) for rate in rates
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The features, finest first -> scores [N, classes, h, w] of the size of the last."""
        first, *others = self.branches
        scores = first(features[-1])
        for branch in others:
            scores = scores + branch(features[-1])
        return scores

    def initialise(self) -> None:
        """Random weights: of the scores with a deviation of 0.01, as in Caffe's networks."""
        for branch in self.branches:
            *inner, last = (m for m in branch.modules() if isinstance(m, nn.Conv2d))
            for convolution in inner:
                nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.normal_(last.weight, 0.0, 0.01)
            for convolution in (*inner, last):
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)


def _classifier(
    in_channels: int, classes: int, rate: int, hidden: int | None, dropout: float
) -> nn.Module:
    if hidden is None:
        return nn.Conv2d(in_channels, classes, 3, padding=rate, dilation=rate)
    return Chain(
        nn.Conv2d(in_channels, hidden, 3, padding=rate, dilation=rate),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(hidden, hidden, 1),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(hidden, classes, 1),
    )


class _AtrousModel(ScoringModel):
    """What DeepLab v1 and v2 share; the arguments are v2's."""

    # Of the losses of the logits of each scale, beside the one of their maximum.
    auxiliary_weight = 1.0
    working_size = 321

    def __init__(
        self,
        encoder_name: str,
        encoder_depth: int,
        encoder_weights: str | None,
        encoder_output_stride: int,
        rates: Sequence[int],
        hidden: int | None,
        dropout: float,
        in_channels: int,
        classes: ClassSet | int,
        activation: ActivationName,
        aux_params: dict[str, Any] | None,
        encoder_options: dict[str, Any],
        scales: Sequence[float],
        align_corners: bool,
    ) -> None:
        check_depth(encoder_depth)
        for scale in scales:
            if not 0 < scale <= 4:
                raise ValueError(f"scales is {tuple(scales)}, expected factors above 0, up to 4")
        encoder = make_encoder(
            encoder_name,
            in_channels,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            **encoder_options,
        )
        classes = as_class_set(classes)
        decoder = AtrousClassifiers(encoder.out_channels[-1], len(classes), rates, hidden, dropout)
        decoder.initialise()
        super().__init__(encoder, decoder, classes, activation, aux_params, align_corners)
        self.scales = tuple(float(scale) for scale in scales)

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, h, w] of x [N, in_channels, H, W]: the largest of all scales."""
        return self.logits_of(self._scores(self.pad(x))[0])

    def training_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """`coarse_logits` of x, and with several scales those of each at its own size."""
        maps = self._of_scales(self.pad(x))[0]
        others = [self.logits_of(scores) for scores in maps] if len(maps) > 1 else None
        return self.logits_of(self._largest(maps)), others

    def _scores(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The largest scores of all scales, and the last features of the image itself."""
        maps, features = self._of_scales(image)
        return self._largest(maps), features

    def _of_scales(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The scores at every scale, those of the image itself first, and its last features."""
        features = self.encoder(image)
        maps = [self.decoder(features)]
        maps += [self.decoder(self.encoder(self._scaled(image, scale))) for scale in self.scales]
        return maps, features[-1]

    def _scaled(self, image: torch.Tensor, scale: float) -> torch.Tensor:
        if not self.align_corners:
            least = 1 / min(image.shape[2], image.shape[3])  # leaves one pixel
            return upsample_bilinear(image, scale_factor=max(scale, least))
        height, width = (round((side - 1) * scale) + 1 for side in image.shape[2:])
        return upsample_bilinear(image, (height, width), align_corners=True)

    def _largest(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """The largest score of all scales, at the size of the first."""
        result, *others = maps
        size = (result.shape[2], result.shape[3])
        for scores in others:
            if scores.shape[2:] != size:
                scores = upsample_bilinear(scores, size, align_corners=self.align_corners)
            result = torch.maximum(result, scores)
        return result


class DeepLabV1(_AtrousModel):
    """DeepLab-LargeFOV: a VGG-16 at stride 8 and one atrous classifier.

    For labels along the edges of the image, as in the paper, give `predict_labels` or `segment` a
    `fastseg.crf.DenseCRF.preset("deeplab", classes)`.

    Args:
        encoder_name: one of fastseg.models.ENCODERS. A VGG pools over 3x3 pixels, and averages over
            3x3 at the end, unless encoder_options say something else.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        encoder_output_stride: 8, 16 or 32: later halvings become dilation.
        decoder_hidden: channels of the two convolutions before the scores.
        decoder_atrous_rate: dilation of the first.
        decoder_dropout: probability, after each.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as pool_size.
        align_corners: of the upsampling.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Chen et al., Semantic Image Segmentation with Deep Convolutional Nets and Fully
    Connected CRFs, 2015.
    """

    def __init__(
        self,
        encoder_name: str = "vgg16",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        encoder_output_stride: int = 8,
        decoder_hidden: int = 1024,
        decoder_atrous_rate: int = 12,
        decoder_dropout: float = 0.5,
        in_channels: int = 3,
        classes: ClassSet | int = 21,
        activation: ActivationName = None,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        align_corners: bool = True,
    ) -> None:
        usual = {"pool_size": 3, "average_last": True} if encoder_name.startswith("vgg") else {}
        super().__init__(
            encoder_name,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            (decoder_atrous_rate,),
            decoder_hidden,
            decoder_dropout,
            in_channels,
            classes,
            activation,
            aux_params,
            {**usual, **(encoder_options or {})},
            (),
            align_corners,
        )


class DeepLabV2(_AtrousModel):
    """A dilated encoder and four atrous classifiers, whose scores are summed.

    With `scales` the network also sees the image at other sizes, and the largest score of a class
    counts; `loss` then adds the losses of each scale. For labels along the edges of the image, as
    in the paper, give `predict_labels` or `segment` a
    `fastseg.crf.DenseCRF.preset("deeplab", classes)`.

    Args:
        encoder_name: one of fastseg.models.ENCODERS; in the paper resnet101 or vgg16. A VGG pools
            over 3x3 pixels, unless encoder_options say something else.
        encoder_depth: halvings of the encoder, 3 to 5.
        encoder_weights: None, "imagenet" or a file; see fastseg.models.make_encoder.
        encoder_output_stride: 8, 16 or 32: later halvings become dilation.
        decoder_atrous_rates: dilation of each classifier.
        decoder_hidden: None for classifiers of one convolution each; a number for VGG's layers, to
            so many channels, 1024 in the paper.
        decoder_dropout: probability, between VGG's layers.
        in_channels: of the input.
        classes: their number, or names and colours.
        activation: of `forward`'s result; see fastseg.nn.make_activation.
        aux_params: arguments of a fastseg.nn.ClassificationHead on the encoder's last features.
        encoder_options: further arguments of the encoder, such as stride_first.
        scales: further scales at which the network sees the image: (0.5, 0.75) in the paper.
        align_corners: of every upsampling.

    Raises:
        ValueError: an argument out of range, or weights that cannot be had.

    Source: Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
    Convolution, and Fully Connected CRFs, 2018.
    """

    def __init__(
        self,
        encoder_name: str = "resnet101",
        encoder_depth: int = 5,
        encoder_weights: str | None = "imagenet",
        encoder_output_stride: int = 8,
        decoder_atrous_rates: Sequence[int] = (6, 12, 18, 24),
        decoder_hidden: int | None = None,
        decoder_dropout: float = 0.5,
        in_channels: int = 3,
        classes: ClassSet | int = 21,
        activation: ActivationName = None,
        aux_params: dict[str, Any] | None = None,
        *,
        encoder_options: dict[str, Any] | None = None,
        scales: Sequence[float] = (),
        align_corners: bool = True,
    ) -> None:
        usual = {"pool_size": 3} if encoder_name.startswith("vgg") else {}
        super().__init__(
            encoder_name,
            encoder_depth,
            encoder_weights,
            encoder_output_stride,
            decoder_atrous_rates,
            decoder_hidden,
            decoder_dropout,
            in_channels,
            classes,
            activation,
            aux_params,
            {**usual, **(encoder_options or {})},
            scales,
            align_corners,
        )
