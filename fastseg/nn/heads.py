"""What turns features into logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from .chain import Chain

ActivationName = str | Callable[[], nn.Module] | None

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "softmax2d": lambda: nn.Softmax(dim=1),
    "logsoftmax": lambda: nn.LogSoftmax(dim=1),
    "tanh": nn.Tanh,
}


def make_activation(name: ActivationName) -> nn.Module:
    """The module of an activation's name.

    Args:
        name: None or "identity", "sigmoid", "softmax" or "softmax2d" (over the classes),
            "logsoftmax", "tanh", or what makes a module when called without arguments.

    Raises:
        ValueError: another name.
    """
    if name is None:
        return nn.Identity()
    if callable(name):
        return name()
    if name not in _ACTIVATIONS:
        allowed = ", ".join(repr(known) for known in _ACTIVATIONS)
        raise ValueError(f"activation is {name!r}, allowed are {allowed}, a callable or None")
    return _ACTIVATIONS[name]()


class SegmentationHead(nn.Sequential):
    """A convolution to one channel per class, at the resolution of its input.

    Map [N, in_channels, H, W] -> logits [N, classes, H, W]. Upsampling commutes with a pointwise
    convolution and is left to the fused ops, or to the model where it comes after a larger kernel.
    """

    def __init__(self, in_channels: int, classes: int, kernel_size: int = 1) -> None:
        super().__init__(nn.Conv2d(in_channels, classes, kernel_size, padding=kernel_size // 2))


class AuxiliaryHead(Chain):
    """3x3 convolution, batch norm, ReLU, dropout of channels, 1x1 convolution to the classes.

    Map [N, in_channels, H, W] -> logits [N, classes, H, W]: the second, weaker loss of training.

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
            nn.Dropout(dropout or 0.0),
            nn.Linear(in_channels, classes),
            make_activation(activation),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, classes]."""
        return super().forward(x)
