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
    training = _in_training(model)
    if not training:
        return predict()
    for module in training:
        module.training = False
    try:
        return predict()
    finally:
        for module in training:
            module.training = True


def _in_training(model: nn.Module) -> list[nn.Module]:
    """The modules in training mode; model.modules() would nest a generator for every level."""
    found, seen, waiting = [], {model}, [model]
    while waiting:
        module = waiting.pop()
        if module.training:
            found.append(module)
        for child in module._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                waiting.append(child)
    return found
