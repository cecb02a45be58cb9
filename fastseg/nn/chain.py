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
    plain_class,
)
from .conv import CONVOLUTIONS, convolve, convolve_and_clamp
from .fold import can_be_folded, folded_parameters, folding_pays, is_whole_batch_norm
from .recompute import norm_act_conv, upper_limit


class Chain(nn.Sequential):
    """nn.Sequential run by `run`: the same parameters and values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] -> map."""
        return run(x, *self)


_SEQUENCES = (nn.Sequential.forward, Chain.forward)
_CLAMPS = (nn.ReLU, nn.ReLU6)

# A layer, and its class if it need not be called.
_Layer = tuple[Any, type[nn.Module] | None]


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
    layers = _layers(modules)
    return _run_training(x, layers) if torch.is_grad_enabled() else _run_inference(x, layers)


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


def flat(modules: Iterable[Any]) -> list[Any]:
    """The layers that the modules run one after the other, identities left out."""
    return [layer for layer, _ in _layers(modules)]


def _layers(modules: Iterable[Any]) -> list[_Layer]:
    """The layers of `flat`, each with its `plain_class`."""
    layers: list[_Layer] = []
    for module in modules:
        kind: Any = plain_class(module)
        if kind is None:
            layers.append((module, None))
        elif getattr(kind, "forward", None) in _SEQUENCES:  # traced modules' classes have none
            # Not children(), which would leave out the second use of a layer.
            layers += _layers(module._modules.values())
        elif kind is not nn.Identity:
            layers.append((module, kind))
    return layers


def opens(module: nn.Module) -> bool:
    """Whether running a module's children in turn is the same as calling it."""
    return is_sequence(module) and not has_hooks(module)


def is_sequence(module: nn.Module) -> bool:
    """Whether a module does nothing but call its children one after the other."""
    forward = getattr(original_class(module), "forward", None)
    return forward in _SEQUENCES and "forward" not in module.__dict__


def inner_sequences(module: nn.Module) -> Iterable[nn.Module]:
    """The sequences inside that `flat` opens."""
    for child in module.children():
        if opens(child):
            yield child
            yield from inner_sequences(child)


def _each_is_called() -> bool:
    return torch.compiler.is_compiling() or is_run_as_written() or all_are_watched()


def _run_inference(x: torch.Tensor, layers: list[_Layer]) -> torch.Tensor:
    position, count = 0, len(layers)
    while position < count:
        layer, kind = layers[position]
        position += 1
        if kind not in CONVOLUTIONS or position == count or layer.padding_mode != "zeros":
            x = layer(x)
            continue
        weight, bias = layer.weight, layer.bias
        after, kind = layers[position]
        if kind is nn.BatchNorm2d and is_whole_batch_norm(after) and not after.training:
            if not folding_pays(layer, x):
                x = layer(x)
                continue
            weight, bias = folded_parameters(layer, after)
            position += 1
            after, kind = layers[position] if position < count else (None, None)
        elif kind not in _CLAMPS:
            x = layer(x)
            continue
        act = after if kind in _CLAMPS else None
        position += act is not None
        x = _convolve(layer, x, weight, bias, act)
    return x


def _run_training(x: torch.Tensor, layers: list[_Layer]) -> torch.Tensor:
    position, count = 0, len(layers)
    while position < count:
        layer, kind = layers[position]
        if kind is nn.BatchNorm2d and position + 2 < count:
            (act, middle), (convolution, last) = layers[position + 1 : position + 3]
            if middle in _CLAMPS and last in CONVOLUTIONS and _pays_again(layer, convolution, x):
                x = norm_act_conv(layer, act, convolution, x)
                position += 3
                continue
        x = layer(x)
        position += 1
    return x


def _is_clamp(module: nn.Module) -> bool:
    return is_a(module, *_CLAMPS)


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


def _pays_again(norm: Any, convolution: Any, x: torch.Tensor) -> bool:
    """Whether what this convolution reads is computed again in the backward."""
    return (
        is_whole_batch_norm(norm)
        and norm.training
        and norm.momentum is not None
        and convolution.bias is None
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        # Otherwise batch norm raises; the module says so.
        and x.dim() == 4
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
    )
