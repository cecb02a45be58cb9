"""Models of an encoder, a decoder and a segmentation head, with smp's names and arguments."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from .._private_torch import NormWithStatistics
from ..classes import ClassSet, as_class_set
from ..nn.altered import is_unaltered, why_not_short
from ..nn.heads import (
    Activation,
    ActivationName,
    AuxiliaryHead,
    ClassificationHead,
    SegmentationHead,
    Upsampling,
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
    """What every model of an encoder and a decoder shares.

    Subclasses build an encoder and a decoder, which turns the encoder's features into one map.

    Any size of input is accepted. The logits fit the pixels where each side is a multiple of the
    encoder's output stride, as smp demands, or such a multiple plus 1, where with align_corners
    they lie on every stride-th pixel; other inputs are padded at the bottom and right by repeating
    the border, and the output is cropped.

    The segmentation head is smp's: convolution, upsampling, activation. Its convolution alone is
    called, and the upsampling left to the fused ops. A head that somebody altered or replaced is
    called itself, on inputs padded to multiples of the output stride, and what it gives before a
    known activation counts as logits.

    Attributes:
        logits_stride: pixels between two coarse logits.
        rounds_up: of the encoder that the model was made with.
        upsampling: factor from the coarse logits to the output: the output has the size of the
            input where it equals logits_stride.
        pads: False for models that take images of any size as they are.
    """

    pads: bool = True

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
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.classes = as_class_set(classes)
        self.encoder = encoder
        self.rounds_up = encoder.rounds_up
        if encoder.mean is not None and encoder.std is not None:
            self.mean, self.std = encoder.mean, encoder.std
        self.decoder: Decoder = decoder
        self.align_corners = align_corners
        self.logits_stride = logits_stride
        self.upsampling = logits_stride if upsampling is None else max(1, upsampling)
        self.segmentation_head: Any = SegmentationHead(
            decoder_channels,
            len(self.classes),
            head_kernel_size,
            activation,
            self.upsampling,
            align_corners,
        )
        self.classification_head = (
            ClassificationHead(encoder.out_channels[-1], **aux_params) if aux_params else None
        )
        self.auxiliary_head: AuxiliaryHead | None = None
        self.size_step = encoder.output_stride
        self._is_encoder_frozen = False

    def _add_auxiliary_head(self, channels: int | None, level: int = -2) -> None:
        """A second head on some features, for `loss`; none for None or 0.

        Args:
            level: index of the features, by default of those before the last.
        """
        self.auxiliary_level = level
        if channels:
            count = self.encoder.out_channels[level]
            self.auxiliary_head = AuxiliaryHead(count, channels, len(self.classes))

    def _take_any_size(self) -> None:
        """Takes images of any size as they are: the logits are resized to the image's size.

        As torchvision and mmsegmentation do it. The segmentation head then leaves it to `forward`.
        """
        self.pads = False
        if self.upsampling == self.logits_stride:
            self.segmentation_head[1] = nn.Identity()

    def initialise_decoder(self) -> None:
        """Random weights of all but the encoder, distributed as smp's."""
        for part in (self.decoder, self.auxiliary_head):
            for module in part.modules() if part is not None else ():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
                elif isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for head in (self.segmentation_head, self.classification_head):
            for module in head.modules() if head is not None else ():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)

    @property
    def in_channels(self) -> int:
        """Bands of the images that the encoder takes; of one that somebody put there, a guess."""
        encoder = self.encoder
        return encoder.in_channels if isinstance(encoder, Encoder) else super().in_channels

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size, not below (height, width), at which the logits fit the pixels."""
        if not self.pads:
            # Poolings that round down would leave nothing of smaller images.
            least = 1 if self.rounds_up else self.size_step
            return max(height, least), max(width, least)
        sides = [
            side if self._on_pixels(side) else -(-side // self.size_step) * self.size_step
            for side in (height, width)
        ]
        return sides[0], sides[1]

    def _on_pixels(self, side: int) -> bool:
        """Whether logits lie on the first and the last pixel of a side of this length."""
        return (
            self.align_corners
            and self.rounds_up
            and side % self.size_step == 1
            and self._head_is_short()
        )

    def _head_is_short(self) -> bool:
        """Whether the head's convolution may be called alone."""
        return why_not_short(self, _head_skips, _head_unfit) is None

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
        y = self.decoder(features)
        head = self.segmentation_head
        if self._head_is_short():
            masks = head[2](self._upsampled(head[0](y), x))
        elif self._is_resized_outside():
            masks = self._resized_inside(y, x)
        else:
            masks = self._cropped(head(y), x)
        if self.classification_head is None:
            return masks
        return masks, self.classification_head(features[-1])

    def _is_resized_outside(self) -> bool:
        """Whether the segmentation head leaves the logits at their own size."""
        outside = not self.pads and self.upsampling == self.logits_stride > 1
        return (
            outside and _head_unfit(self) is None and type(self.segmentation_head[1]) is nn.Identity
        )

    def _resized_inside(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """What the whole head makes of y, with the logits at the size of x before its activation.

        Someone watches the head: all of its modules are called, and the size is changed on the way.
        """
        head = self.segmentation_head
        if _head_unfit(self) is not None:
            return self._upsampled(head(y), x)
        last = head[2]
        if type(last.activation) is nn.Identity and all(map(is_unaltered, last.modules())):
            return self._upsampled(head(y), x)
        handle = last.register_forward_pre_hook(
            lambda _, inputs: (self._upsampled(inputs[0], x), *inputs[1:]), prepend=True
        )
        try:
            return head(y)
        finally:
            handle.remove()

    def _cropped(self, masks: Any, x: torch.Tensor) -> Any:
        """What a head made of the padded input, without what it made of the padding."""
        padded = self.padded_size(x.shape[2], x.shape[3])
        if padded == (x.shape[2], x.shape[3]) or masks.dim() < 3:
            return masks
        rows, columns = (
            -(-side * made // given)
            for side, made, given in zip(x.shape[2:], masks.shape[-2:], padded, strict=True)
        )
        return masks[..., :rows, :columns]

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, h, w] of x [N, in_channels, H, W], one per logits_stride pixels.

        An altered head gives its own number of them.
        """
        return self.decode(self.encoder(self.pad(x)))

    def training_logits(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`coarse_logits` of x, and those of the auxiliary head if the model has one."""
        features = self.encoder(self.pad(x))
        auxiliary = (
            None
            if self.auxiliary_head is None
            else self.auxiliary_head(features[self.auxiliary_level])
        )
        return self.decode(features), auxiliary

    def decode(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Coarse logits of the encoder's features, finest first."""
        return self.logits_of(self.decoder(features))

    def logits_of(self, y: torch.Tensor) -> torch.Tensor:
        """Coarse logits of what the decoder gives."""
        head = self.segmentation_head
        if self._head_is_short():
            return head[0](y)
        if _head_unfit(self) is None and not isinstance(head[2].activation, nn.Identity):
            return head[1](head[0](y))  # watched, but its output is no logits
        return head(y)

    def unused_keys(self, names: Iterable[str]) -> list[str]:
        """Names of tensors of encoder stages that smp builds and this model never uses."""
        prefix = "encoder."
        inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return [prefix + name for name in self.encoder.unused_keys(inner)]

    def freeze_encoder(self) -> None:
        """Stops training the encoder: no gradients, and its norms stay in eval mode.

        The same as in segmentation_models_pytorch: `train` and `eval` leave the encoder alone.
        """
        self._set_encoder_frozen(True)

    def unfreeze_encoder(self) -> None:
        """Undoes `freeze_encoder`; the encoder's norms are in training mode then."""
        self._set_encoder_frozen(False)

    def _set_encoder_frozen(self, frozen: bool) -> None:
        self.encoder.requires_grad_(not frozen)
        for module in self.encoder.modules():
            if isinstance(module, NormWithStatistics):
                module.train(not frozen)
        self._is_encoder_frozen = frozen

    def train(self, mode: bool = True) -> EncoderDecoder:
        """Sets the mode of every module; a frozen encoder keeps its own."""
        modes = [(m, m.training) for m in self.encoder.modules()] if self._is_encoder_frozen else []
        super().train(mode)
        for module, kept in modes:
            module.training = kept
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """nn.Module's; without `strict`, tensors of another shape are left out with a warning."""
        if not strict:
            own = self.state_dict()
            misshapen = [k for k, v in state_dict.items() if k in own and own[k].shape != v.shape]
            if misshapen:
                warnings.warn(
                    f"not loaded, since their shapes differ: {', '.join(misshapen)}; these tensors "
                    "keep their values, train the model before using it",
                    stacklevel=2,
                )
            state_dict = {k: v for k, v in state_dict.items() if k not in set(misshapen)}
        return super().load_state_dict(state_dict, strict, assign)


class ScoringModel(EncoderDecoder):
    """A model whose decoder gives the scores of the classes, which are upsampled as they are.

    Images of any size are taken as they are; with align_corners they are padded, since scores of
    other sizes would not lie on the pixels.

    Args:
        encoder, decoder, classes, activation, aux_params, align_corners: as in `EncoderDecoder`.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        classes: ClassSet,
        activation: ActivationName,
        aux_params: dict[str, Any] | None,
        align_corners: bool,
    ) -> None:
        super().__init__(
            encoder,
            decoder,
            len(classes),
            classes,
            encoder.output_stride,
            None,
            activation,
            aux_params,
            align_corners=align_corners,
        )
        self.pads = align_corners
        # `forward` brings the scores to the size of the image.
        self.segmentation_head[0] = nn.Identity()
        self.segmentation_head[1] = nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        """Full-resolution logits, after the activation.

        Args:
            x: input map [N, in_channels, H, W].

        Returns:
            Map [N, classes, H, W]; with aux_params a pair of it and the labels of the whole image.
        """
        scores, features = self._scores(self.pad(x))
        head = self.segmentation_head
        if self._head_is_short():
            masks = head[2](self._upsampled(head[0](scores), x))
        else:
            masks = self._resized_inside(scores, x)
        if self.classification_head is None:
            return masks
        return masks, self.classification_head(features)

    def _scores(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The decoder's scores of a padded image, and the encoder's last features."""
        features = self.encoder(image)
        return self.decoder(features), features[-1]


def check_depth(encoder_depth: int) -> None:
    """Raises ValueError for a number of halvings that the architectures over encoders lack."""
    if not 3 <= encoder_depth <= 5:
        raise ValueError(f"encoder_depth is {encoder_depth}, allowed are 3 to 5")


def _head_skips(model: Any) -> Iterable[nn.Module]:
    head = model.segmentation_head
    last = head[2]
    # `loss` and `predict_labels` leave out an activation; one that does nothing may be watched.
    nothing = (last, last.activation) if type(last.activation) is nn.Identity else ()
    return head, head[1], *nothing


def _head_unfit(model: Any) -> str | None:
    head = model.segmentation_head
    if type(head) is not SegmentationHead or len(head) != 3:
        return "the segmentation head was replaced"
    if type(head[1]) not in (Upsampling, nn.Identity) or type(head[2]) is not Activation:
        return "a layer of the segmentation head was replaced"
    return None
