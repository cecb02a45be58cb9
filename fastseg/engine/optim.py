"""Optimizer, schedule, averaged weights and class weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from .._private_torch import move_towards
from .._schema import shown
from ..data import Split
from .config import TrainConfig

Model = TypeVar("Model", bound=nn.Module)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of a configuration, with weight decay on the weights alone."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups,
            config.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=config.weight_decay,
            fused=True,
        )
    return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay, fused=True)


def restore(optimizer: torch.optim.Optimizer, state: Mapping[Any, Any]) -> None:
    """Gives an optimizer the state that a checkpoint holds of each parameter.

    Learning rate and weight decay stay as they are: they come from the configuration.

    Raises:
        ValueError: a state that fits no parameter.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    expected = _STATE_NAMES[type(optimizer)]
    for index, entries in state.items():
        if not isinstance(index, int) or not 0 <= index < len(parameters):
            raise ValueError(f"optimizer has a state for the parameter {shown(index)}")
        if not isinstance(entries, Mapping) or set(entries) != set(expected):
            raise ValueError(
                f"optimizer has {shown(entries)} for the parameter {index}, expected "
                f"{', '.join(expected)}"
            )
        for name, value in entries.items():
            shape = parameters[index].shape
            if not isinstance(value, torch.Tensor) or value.shape not in (shape, torch.Size()):
                raise ValueError(
                    f"optimizer's {name} of the parameter {index} does not have shape "
                    f"{tuple(shape)}"
                )
    optimizer.load_state_dict({**optimizer.state_dict(), "state": dict(state)})


_STATE_NAMES: dict[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.SGD: ("momentum_buffer",),
}


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """The learning rate of a step, from 0: linear warmup times the poly schedule."""
    rate = config.lr * (1 - iteration / config.iterations) ** config.power
    return rate * min(1.0, (iteration + 1) / (config.warmup + 1))


class Averaged(Generic[Model]):
    """Exponential moving average of a model's weights and batch norm statistics.

    The decay grows to its value over the first steps, so that the random start is forgotten soon.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model)
        self.model.requires_grad_(False)
        self.decay = decay
        self._pairs = _floating(self.model, model)

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Takes up the weights after the step of number `iteration`, from 0."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        averages, values = self._pairs
        move_towards(averages, values, 1.0 - decay)


def _floating(
    average: nn.Module, model: nn.Module
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    own, source = average.state_dict(), model.state_dict()
    names = [name for name, value in source.items() if value.is_floating_point()]
    return [own[name] for name in names], [source[name] for name in names]


def class_weights(split: Split, kind: str) -> torch.Tensor | None:
    """Weights of the classes in the loss, from the pixel counts of a split.

    "median-frequency": m / f, where f is a class's share of the pixels of the images that show it
    and m is the median of f over the classes (Eigen and Fergus, 2015). "sqrt-frequency": the square
    root of that. A class without pixels has weight 1.
    """
    if kind == "none":
        return None
    pixels = torch.from_numpy(split.pixels).double()
    present = pixels > 0
    frequency = pixels[present] / torch.from_numpy(split.pixels_around).double()[present]
    weights = torch.ones_like(pixels)
    weights[present] = frequency.quantile(0.5) / frequency
    return (weights.sqrt() if kind == "sqrt-frequency" else weights).float()
