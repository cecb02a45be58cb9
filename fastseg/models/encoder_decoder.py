"""Models of an encoder, a decoder and a segmentation head, with smp's names and arguments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..classes import ClassSet, as_class_set
from ..nn.heads import (
    ActivationName,
    AuxiliaryHead,
    ClassificationHead,
    SegmentationHead,
    make_activation,
)
from .base import SegmentationModel
from .encoders import Encoder


class Decoder(nn.Module):
    """From an encoder's features, finest first, to one map.

    Attributes:
        reads: indices of the features that it looks at; the others may be empty.
    """

    reads: tuple[int, ...]


class EncoderDecoder(SegmentationModel):
    """What PSPNet, DeepLabV3 and DeepLabV3Plus share.

    Subclasses build an encoder and a decoder, which turns the encoder's features into one map.

    Any size of input is accepted. The logits fit the pixels where each side is a multiple of the
    encoder's output stride, as smp demands, or such a multiple plus 1, where with align_corners
    they lie on every stride-th pixel; other inputs are padded at the bottom and right by repeating
    the border, and the output is cropped.

    Attributes:
        logits_stride: pixels between two coarse logits.
        upsampling: factor from the coarse logits to the output: the output has the size of the
            input where it equals logits_stride.
    """

    align_corners = True

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        decoder_channels: int,
        classes: ClassSet | int,
        logits_stride: int,
        upsampling: int | None,
        activation: ActivationName,
        aux_params: dict[str, Any] | None,
        head_kernel_size: int = 1,
    ) -> None:
        super().__init__()
        self.classes = as_class_set(classes)
        self.encoder = encoder
        self.decoder: Decoder = decoder
        self.segmentation_head = SegmentationHead(
            decoder_channels, len(self.classes), head_kernel_size
        )
        self.activation = make_activation(activation)
        self.classification_head = (
            ClassificationHead(encoder.out_channels[-1], **aux_params) if aux_params else None
        )
        self.auxiliary_head: AuxiliaryHead | None = None
        self.size_step = encoder.output_stride
        self.logits_stride = logits_stride
        self.upsampling = logits_stride if upsampling is None else max(1, upsampling)
        self._encoder_frozen = False

    def _add_auxiliary_head(self, channels: int | None) -> None:
        """A second head on the features before the last, for `loss`; none for None or 0."""
        if channels:
            count = self.encoder.out_channels[-2]
            self.auxiliary_head = AuxiliaryHead(count, channels, len(self.classes))

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size, not below (height, width), at which the logits fit the pixels."""
        sides = [
            side if self._on_pixels(side) else -(-side // self.size_step) * self.size_step
            for side in (height, width)
        ]
        return sides[0], sides[1]

    def _on_pixels(self, side: int) -> bool:
        """Whether logits lie on the first and the last pixel of a side of this length."""
        return self.align_corners and side % self.size_step == 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of `forward`'s logits for an input of this size."""
        if self.upsampling == self.logits_stride:
            return height, width
        sides = []
        for side in (height, width):
            odd = int(self._on_pixels(side))
            sides.append(-(-(side - odd) * self.upsampling // self.logits_stride) + odd)
        return sides[0], sides[1]

    def forward(self, x: torch.Tensor) -> Any:
        """Full-resolution logits, after the activation.

        Args:
            x: input map [N, in_channels, H, W].

        Returns:
            Map [N, classes, H, W] (H and W times upsampling / logits_stride); with aux_params a
            pair of it and the labels of the whole image [N, aux_params["classes"]].
        """
        features = self.encoder(self.pad(x))
        masks = self._upsampled(self.decode(features), x)
        masks = self.activation(masks)
        if self.classification_head is None:
            return masks
        return masks, self.classification_head(features[-1])

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, h, w] of x [N, in_channels, H, W], one per logits_stride pixels."""
        return self.decode(self.encoder(self.pad(x)))

    def training_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`coarse_logits` of x, and those of the auxiliary head if the model has one."""
        features = self.encoder(self.pad(x))
        auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(features[-2])
        return self.decode(features), auxiliary

    def decode(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Coarse logits of the encoder's features, finest first."""
        return self.segmentation_head(self.decoder(features))

    def unused_keys(self, names: Iterable[str]) -> list[str]:
        """Names of tensors of encoder stages that smp builds and this model never uses."""
        prefix = "encoder."
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [prefix + name for name in self.encoder.unused_keys(inner)]

    def freeze_encoder(self) -> None:
        """Stops training the encoder: no gradients, and its batch norms stay in eval mode."""
        self._set_encoder_frozen(True)

    def unfreeze_encoder(self) -> None:
        """Undoes `freeze_encoder`."""
        self._set_encoder_frozen(False)

    def _set_encoder_frozen(self, frozen: bool) -> None:
        self.encoder.requires_grad_(not frozen)
        self._encoder_frozen = frozen
        self.encoder.train(self.training and not frozen)

    def train(self, mode: bool = True) -> EncoderDecoder:
        """Sets the mode of every module; a frozen encoder stays in eval mode."""
        super().train(mode)
        if self._encoder_frozen:
            self.encoder.eval()
        return self
