"""Convolutions, norms and activations one after the other, in less time and memory.

`altered` decides which layers may be computed without calling them, also for the layers of other
libraries that `fastseg.accelerate` runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .altered import (
    all_are_watched,
    has_hooks,
    is_a,
    is_run_as_written,
    original_class,
    why_called,
)
from .conv import convolve, convolve_and_clamp, is_convolution
from .fold import can_be_folded, folded_parameters, folding_pays, is_whole_batch_norm
from .recompute import norm_act_conv, upper_limit


class Chain(nn.Sequential):
    """nn.Sequential run by `run`: the same parameters and values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] -> map."""
        return run(x, *self)


def run(x: torch.Tensor, *modules: nn.Module) -> torch.Tensor:
    """Runs modules in sequence, and those inside a nested nn.Sequential.

    Where no gradients are recorded, a batch norm in eval mode is folded into the convolution before
    it, if that saves more traffic on the map than it costs on the weights, and a ReLU or ReLU6
    after them joins them. The folded weights are made anew at every call: whatever a training
    program does with the parameters, the next call sees (`fastseg.fuse` folds once). In training, a
    batch norm, ReLU or ReLU6, and convolution that follow each other keep for the backward only
    what the norm reads: what the convolution reads is computed again, an elementwise operation,
    which nearly halves the memory of the chain.

    An altered module (see `altered`) is called itself. Under torch.compile and torch.export every
    module is, since the compiler fuses elementwise operations by itself.
    """
    if _each_is_called():
        for module in modules:
            x = module(x)
        return x
    layers = list(flat(modules))
    step = _training_step if torch.is_grad_enabled() else _inference_step
    position = 0
    while position < len(layers):
        x, count = step(x, layers[position : position + 3])
        position += count
    return x


def run_residual(
    x: torch.Tensor, layers: Iterable[nn.Module], shortcut: nn.Module | None, act: nn.Module
) -> torch.Tensor:
    """act(layers(x) + shortcut(x)), the layers as in `run`; without a shortcut + x."""
    y = run(x, *layers)
    y += x if shortcut is None else shortcut(x)
    return act(y)


def run_after(
    first: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
    layers: Iterable[nn.Module],
) -> torch.Tensor:
    """Runs layers that begin with a convolution, which `first(weight, bias)` computes.

    Weight and bias are the convolution's, with the batch norm after it folded in where `run` would
    fold it. The remaining layers follow.

    Args:
        first: computes the convolution, of a map that it knows.
        layers: a convolution that may be passed over, and what is run on its result.
    """
    convolution, *after = flat(layers)
    weight, bias = convolution.weight, convolution.bias
    clamp = None
    if not torch.is_grad_enabled() and not _each_is_called():
        if after and can_be_folded(convolution, after[0]):
            weight, bias = folded_parameters(convolution, after.pop(0))
        if after and _is_clamp(after[0]):
            clamp = after.pop(0)
    y = first(weight, bias)
    if clamp is not None:
        y = y.clamp_(0.0, upper_limit(clamp))
    return run(y, *after)


def flat(modules: Iterable[Any]) -> Iterable[Any]:
    """The layers that the modules run one after the other, identities left out."""
    for module in modules:
        if opens(module):
            # Not children(), which would leave out the second use of a layer.
            yield from flat(module._modules.values())
        elif not is_a(module, nn.Identity):
            yield module


def opens(module: nn.Module) -> bool:
    """Whether running a module's children in turn is the same as calling it."""
    return is_sequence(module) and not has_hooks(module)


def is_sequence(module: nn.Module) -> bool:
    """Whether a module does nothing but call its children one after the other."""
    forward: Any = original_class(module).forward
    return (
        forward is nn.Sequential.forward or forward is Chain.forward
    ) and "forward" not in module.__dict__


def inner_sequences(module: nn.Module) -> Iterable[nn.Module]:
    """The sequences inside that `flat` opens."""
    for child in module.children():
        if opens(child):
            yield child
            yield from inner_sequences(child)


def _each_is_called() -> bool:
    return torch.compiler.is_compiling() or is_run_as_written() or all_are_watched()


def _inference_step(x: torch.Tensor, group: list[Any]) -> tuple[torch.Tensor, int]:
    """Runs the first of up to three layers; returns the map and how many it ran."""
    first, *after = group
    if not after:
        return first(x), 1
    if can_be_folded(first, after[0]):
        if not folding_pays(first, x):
            return first(x), 1
        weight, bias = folded_parameters(first, after[0])
        act = after[1] if len(after) > 1 and _is_clamp(after[1]) else None
        return _convolve(first, x, weight, bias, act), 2 if act is None else 3
    if _is_clamp(after[0]) and is_convolution(first) and first.padding_mode == "zeros":
        if why_called(first) is None:
            return _convolve(first, x, first.weight, first.bias, after[0]), 2
    return first(x), 1


def _training_step(x: torch.Tensor, group: list[Any]) -> tuple[torch.Tensor, int]:
    """Runs the first of up to three layers; returns the map and how many it ran."""
    if len(group) == 3:
        norm, act, convolution = group
        if _can_recompute(norm, act, convolution, x):
            return norm_act_conv(norm, act, convolution, x), 3
    return group[0](x), 1


def _is_clamp(module: nn.Module) -> bool:
    return is_a(module, nn.ReLU, nn.ReLU6)


def _convolve(
    convolution: nn.Conv2d,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    act: nn.Module | None,
) -> torch.Tensor:
    if act is None:
        return convolve(convolution, x, weight, bias)
    return convolve_and_clamp(convolution, x, weight, bias, upper_limit(act))


def _can_recompute(norm: Any, act: Any, convolution: Any, x: torch.Tensor) -> bool:
    return (
        is_whole_batch_norm(norm)
        and norm.training
        and norm.momentum is not None
        and _is_clamp(act)
        and is_convolution(convolution)
        and convolution.bias is None
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        and why_called(norm) is None
        and why_called(convolution) is None
        # Otherwise batch norm raises; the module says so.
        and x.dim() == 4
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
    )
