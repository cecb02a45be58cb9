"""What autocast does to the arguments of a convolution, for functions that are made of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def autocast_enabled(x: torch.Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    device = x.device.type
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def in_autocast_dtype(
    parts: Sequence[torch.Tensor], weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None]:
    """As autocast casts for a convolution: all but float64, which is left alone."""
    if not autocast_enabled(weight) or weight.dtype is torch.float64:
        return list(parts), weight, bias
    dtype = torch.get_autocast_dtype(weight.device.type)
    return (
        [p.to(dtype) for p in parts],
        weight.to(dtype),
        None if bias is None else bias.to(dtype),
    )
