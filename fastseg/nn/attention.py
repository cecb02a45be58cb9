"""Attention that weighs the channels and the pixels of a map."""

from __future__ import annotations

import torch
from torch import nn


class SCSEAttention(nn.Module):
    """x times the sum of a weight per channel and a weight per pixel, each of 0 to 1.

    Args:
        channels: of the map, at least `reduction`.
        reduction: channels per hidden one in the branch that weighs channels.

    Raises:
        ValueError: fewer channels.

    Source: Roy et al., Concurrent Spatial and Channel Squeeze & Excitation, 2018.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        if channels < reduction:
            raise ValueError(
                f"'scse' attention over {channels} channels, expected at least {reduction}"
            )
        hidden = channels // reduction
        self.cSE = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )
        self.sSE = nn.Sequential(nn.Conv2d(channels, 1, 1), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] -> map of the same shape."""
        return torch.addcmul(x * self.cSE(x), x, self.sSE(x))


class Attention(nn.Module):
    """An attention layer, chosen by name.

    Args:
        name: None for none, or "scse".
        channels: of the map.

    Attributes:
        attention: the module.

    Raises:
        ValueError: another name.
    """

    def __init__(self, name: str | None, channels: int) -> None:
        super().__init__()
        if name not in (None, "scse"):
            raise ValueError(f"attention is {name!r}, allowed are None and 'scse'")
        self.attention = nn.Identity() if name is None else SCSEAttention(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, channels, H, W] -> map of the same shape."""
        return self.attention(x)
