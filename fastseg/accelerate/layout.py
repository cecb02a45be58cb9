"""Memory formats inside whole models."""

from __future__ import annotations

import torch

from ..layout import in_format, map_format


def for_inference(x: torch.Tensor) -> torch.Tensor:
    """A map [N, C, H, W] in channels_last where a CPU without gradients will read it.

    oneDNN's convolutions are faster on it. With gradients the caller's choice is left alone.
    """
    if x.device.type == "cpu" and not torch.is_grad_enabled() and x.dim() == 4:
        return in_format(x, torch.channels_last)
    return x


def as_given(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """y in the memory format that x came in, which callers may rely on."""
    return in_format(y, map_format(x)) if x.dim() == 4 else y
