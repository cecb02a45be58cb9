"""The normalisation between a convolution and its activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ..layout import in_format, map_format


class InstanceNorm2d(nn.InstanceNorm2d):
    """nn.InstanceNorm2d that keeps channels_last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] -> map [N, C, H, W] in x's memory format."""
        return in_format(super().forward(x), map_format(x))


NormName = bool | str | Mapping[str, Any]

_NORMS: dict[str, Callable[..., nn.Module]] = {
    "batchnorm": nn.BatchNorm2d,
    "identity": nn.Identity,
    "instancenorm": InstanceNorm2d,
}


def make_norm(use_norm: NormName, channels: int) -> nn.Module:
    """Makes a normalisation layer from its name.

    Args:
        use_norm: True or "batchnorm", False or "identity" (none: the convolution then has a bias),
            "instancenorm", or {"type": one of these names, further arguments of torch's module}.
        channels: of the map that it normalises.

    Returns:
        The layer; nn.Identity for none.

    Raises:
        ValueError: another name.
    """
    if isinstance(use_norm, bool):
        use_norm = "batchnorm" if use_norm else "identity"
    options = {"type": use_norm} if isinstance(use_norm, str) else dict(use_norm)
    name = str(options.pop("type", None)).lower()
    if name not in _NORMS:
        allowed = ", ".join(repr(known) for known in _NORMS)
        raise ValueError(f"norm is {use_norm!r}, allowed are {allowed}, True, False or a dict")
    return _NORMS[name](channels, **options)


def check_batch(norm: nn.Module, x: torch.Tensor) -> None:
    """Refuses to train a batch norm on a single value per channel, and says what helps.

    Args:
        x: what is normalised: one value per image and channel.
    """
    if x.shape[0] == 1 and isinstance(norm, nn.BatchNorm2d) and norm.training:
        raise ValueError(
            "x holds one image, but the batch norm of a pooled branch needs two or more to train: "
            "use a larger batch, SyncBatchNorm over several processes, or eval() of this branch"
        )
