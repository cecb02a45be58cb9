"""Puts modules in eval mode during a prediction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

Result = TypeVar("Result")


def in_eval_mode(model: nn.Module, predict: Callable[[], Result]) -> Result:
    """Calls predict() with every module in eval mode, then restores each module's mode.

    So a prediction in the middle of training changes no running statistics. The modules' flags are
    set without `train()`, which adapters and frozen layers override.
    """
    training = [module for module in model.modules() if module.training]
    if not training:
        return predict()
    for module in training:
        module.training = False
    try:
        return predict()
    finally:
        for module in training:
            module.training = True
