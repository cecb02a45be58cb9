"""Whether an accelerated model's forward gives low-resolution logits."""

from __future__ import annotations

from typing import Any

from torch import nn

_SWITCH = "_fastseg_low_resolution"


def low_resolution(model: Any) -> bool:
    """Whether the model's forward leaves its logits at the network's own resolution."""
    return bool(vars(model).get(_SWITCH, False))


def set_low_resolution(model: nn.Module, on: bool) -> None:
    """Sets it; switched off, it leaves no trace in the module."""
    if on:
        model.__dict__[_SWITCH] = True
    else:
        model.__dict__.pop(_SWITCH, None)
