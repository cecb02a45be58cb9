"""Heads: layers from features to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..ops.upsample_bilinear import upsample_bilinear
from .chain import Chain

ActivationName = str | Callable[[], nn.Module] | None


class ArgMax(nn.Module):
    """The index of the largest value, over one dimension or over all of them.

    Args:
        dim: dimension, or None for the index in the flattened tensor.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values -> int64 indices."""
        return x.argmax(self.dim)


class Clamp(nn.Module):
    """Values limited to low..high."""

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Values -> values of the same shape."""
        return x.clamp(self.low, self.high)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "softmax2d": lambda: nn.Softmax(dim=1),
    "logsoftmax": lambda: nn.LogSoftmax(dim=1),
    "tanh": nn.Tanh,
    "argmax": ArgMax,
    "argmax2d": lambda: ArgMax(dim=1),
    "clamp": Clamp,
}


def make_activation(name: ActivationName) -> nn.Module:
    """Makes an activation from its name.

    Args:
        name: None or "identity", "sigmoid", "softmax" or "softmax2d" (over the classes),
            "logsoftmax", "tanh", "argmax" (over everything), "argmax2d" (over the classes),
            "clamp" (to 0..1), a module, or a callable without arguments that makes one.

    Returns:
        The module; nn.Identity for None.

    Raises:
        ValueError: another name.
    """
    if name is None:
        return nn.Identity()
    if isinstance(name, nn.Module):
        return name
    if callable(name):
        return name()
    if name not in _ACTIVATIONS:
        allowed = ", ".join(repr(known) for known in _ACTIVATIONS)
        raise ValueError(f"activation is {name!r}, allowed are {allowed}, a callable or None")
    return _ACTIVATIONS[name]()


class Activation(nn.Module):
    """The last layer of a head, named as in segmentation_models_pytorch.

    Args:
        name: as in `make_activation`.

    Attributes:
        activation: the module.
    """

    def __init__(self, name: ActivationName = None) -> None:
        super().__init__()
        self.activation = make_activation(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits -> what the activation makes of them."""
        return self.activation(x)


class Upsampling(nn.Upsample):
    """Bilinear nn.Upsample by a factor, computed by fastseg.upsample_bilinear."""

    def __init__(self, scale_factor: float, align_corners: bool = True) -> None:
        super().__init__(scale_factor=scale_factor, mode="bilinear", align_corners=align_corners)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, h, w] -> map [N, C, h * scale_factor, w * scale_factor]."""
        factor: Any = self.scale_factor
        return upsample_bilinear(x, scale_factor=factor, align_corners=bool(self.align_corners))


class SegmentationHead(nn.Sequential):
    """A convolution to one channel per class, upsampling and activation.

    Map [N, in_channels, h, w] -> [N, classes, H, W] with H and W `upsampling` times h and w. A
    model calls the convolution alone and leaves the upsampling to the fused ops, unless somebody
    altered the head.

    Args:
        in_channels: of the map.
        classes: channels of the logits.
        kernel_size: of the convolution, odd.
        activation: as in `make_activation`.
        upsampling: factor; not above 1 for none.
        align_corners: of the upsampling.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        kernel_size: int = 1,
        activation: ActivationName = None,
        upsampling: int = 1,
        align_corners: bool = True,
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, classes, kernel_size, padding=kernel_size // 2),
            Upsampling(upsampling, align_corners) if upsampling > 1 else nn.Identity(),
            Activation(activation),
        )


class AuxiliaryHead(Chain):
    """3x3 convolution, batch norm, ReLU, dropout of channels, 1x1 convolution to the classes.

    Map [N, in_channels, H, W] -> logits [N, classes, H, W]: the second, weaker loss of training.

    Args:
        in_channels: of the features that it reads.
        channels: between the two convolutions.
        classes: of the logits.
        dropout: probability that training zeroes a channel, 0 <= dropout < 1.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017, section 3.3.
    """

    def __init__(self, in_channels: int, channels: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(channels, classes, 1),
        )


class ClassificationHead(nn.Sequential):
    """Labels of the whole image: pooling, dropout, linear layer, activation.

    Map [N, in_channels, H, W] -> [N, classes].

    Args:
        in_channels: of the map.
        classes: number of labels.
        pooling: "avg" or "max".
        dropout: probability, before the linear layer; None for none.
        activation: as in `make_activation`.

    Raises:
        ValueError: another pooling or activation.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        pooling: str = "avg",
        dropout: float | None = 0.2,
        activation: ActivationName = None,
    ) -> None:
        if pooling not in ("avg", "max"):
            raise ValueError(f"pooling is {pooling!r}, allowed are 'avg' and 'max'")
        super().__init__(
            nn.AdaptiveAvgPool2d(1) if pooling == "avg" else nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Linear(in_channels, classes),
            Activation(activation),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, classes]."""
        return super().forward(x)
