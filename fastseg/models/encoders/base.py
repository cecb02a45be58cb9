"""The base of all encoders: a module from an image to its features at several strides."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..files import warn_dropped


class Encoder(nn.Module):
    """Features of an image at the strides 1, 2, 4, ... 2^depth.

    Args:
        in_channels: of the image.
        depth: number of halvings, 1 to 5; later stages are not built.
        output_stride: 8, 16 or 32: later halvings become dilation.

    Attributes:
        out_channels: of the features, the image itself (in a VGG its first stage) first: depth + 1
            numbers.
        output_stride: of the last features.
        prefixes: what names of tensors of the whole network begin with, stages in order.
        classifier_prefix: the same for the ImageNet classifier, which encoders do not have.
        mean, std: of the values that its weights were trained on, where they are not the usual.
        rounds_up: whether an odd size is halved to the larger half; otherwise its last row or
            column is left out.
        mixed_dtypes: whether the weights after `early_layers` may have another dtype than those
            before (`fastseg.fuse`); the image may then have any.
    """

    out_channels: list[int]
    prefixes: tuple[str, ...]
    classifier_prefix: str
    rounds_up: bool = True
    mixed_dtypes: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __init__(self, in_channels: int, depth: int, output_stride: int) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels is {in_channels}, expected at least 1")
        if not 1 <= depth <= 5:
            raise ValueError(f"encoder depth is {depth}, allowed are 1 to 5")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"encoder output stride is {output_stride}, allowed are 8, 16 and 32")
        self.in_channels = in_channels
        self.depth = depth
        self.output_stride = min(output_stride, 2**depth)
        self.register_load_state_dict_pre_hook(_drop_unused)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x [N, in_channels, H, W] and its features, finest first: depth + 1 maps."""
        raise NotImplementedError

    def early_layers(self) -> list[nn.Module]:
        """The first layers, up to stride 4: all later layers inherit their rounding.

        With their weights in float32 and all others in bfloat16, a MobileNetV2's labels are as near
        to those in float32 as if half of the encoder were so.
        """
        raise NotImplementedError

    def to_early(self, x: torch.Tensor) -> torch.Tensor:
        """Casts x to the early layers' dtype."""
        return x.to(next(self.parameters()).dtype) if self.mixed_dtypes else x

    def to_late(self, x: torch.Tensor) -> torch.Tensor:
        """The early layers' result, as the later layers take it."""
        if not self.mixed_dtypes:
            return x
        *_, last = self.parameters()
        return x.to(last.dtype)

    def stride_and_dilation(self, halving: int) -> tuple[int, int]:
        """Of the stage that makes halving number 1, 2, ... of the image."""
        dilation = max(1, 2**halving // self.output_stride)
        return (2 if dilation == 1 else 1), dilation

    def unused_keys(self, names: Iterable[str]) -> list[str]:
        """Those of a whole network's tensor names that this encoder has no module for.

        They are stages after `depth` and the classifier.
        """
        have = tuple(self.state_dict())
        unused = []
        for name in names:
            stage = next((p for p in self.prefixes if name.startswith(p)), None)
            later = stage is not None and not any(key.startswith(stage) for key in have)
            if later or name.startswith(self.classifier_prefix):
                unused.append(name)
        return unused

    def initialise(self) -> None:
        """Draws random weights from torchvision's initial distribution.

        With other than 3 input channels the first convolution has torch's, as in smp.
        """
        convolutions = [m for m in self.modules() if isinstance(m, nn.Conv2d)]
        for module in convolutions[0 if self.in_channels == 3 else 1 :]:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _drop_unused(encoder: nn.Module, state_dict: dict, prefix: str, *_: object) -> None:
    """Before loading, drops the weights of stages that are not built."""
    assert isinstance(encoder, Encoder)
    inner = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
    unused = [prefix + key for key in encoder.unused_keys(inner)]
    for key in unused:
        del state_dict[key]
    warn_dropped(unused)
