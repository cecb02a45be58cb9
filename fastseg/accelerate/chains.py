"""Layers one after the other, in fewer passes over the map."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from ..nn.chain import folded_parameters
from ..nn.conv import convolve, convolve_and_clamp
from ..ops.dilated_conv2d import dilated_conv2d
from ..ops.upsample_conv2d import upsample_conv2d
from .swap import has_hooks, not_plain, original_class


def run(x: torch.Tensor, *modules: nn.Module) -> torch.Tensor:
    """The modules one after the other, those of nn.Sequential inside included.

    Where no gradients are recorded, a batch norm in eval mode is folded into the convolution before
    it, and a ReLU or ReLU6 after them joins them, if that saves more traffic on the map than it
    costs on the weights. The folded weights are made anew at every call: whatever a training
    program does with the parameters, the next call sees. A module that has hooks is always called.
    """
    layers = list(flat(modules))
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        for layer in layers:
            x = layer(x)
        return x
    position = 0
    while position < len(layers):
        convolution, *after = layers[position : position + 3]
        if after and pays(convolution, after[0], x):
            clamp = after[1] if len(after) > 1 and _is_clamp(after[1]) else None
            x = _convolve(convolution, x, *folded_parameters(convolution, after[0]), clamp)
            position += 2 if clamp is None else 3
        else:
            x = convolution(x)
            position += 1
    return x


def run_residual(
    x: torch.Tensor, identity: torch.Tensor, convolution: Any, norm: Any, act: Any
) -> torch.Tensor:
    """act(norm(convolution(x)) + identity), without gradients in fewer passes as in `run`."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return act(norm(convolution(x)) + identity)
    if not pays(convolution, norm, x):
        return act(norm(convolution(x)).add_(identity))
    y = _convolve(convolution, x, *folded_parameters(convolution, norm), None)
    return act(y.add_(identity))


def flat(modules: Iterable[nn.Module]) -> Iterable[Any]:
    """The layers that run one after the other."""
    for module in modules:
        if is_sequence(module) and not has_hooks(module):
            yield from flat(module.children())
        elif type(module) is not nn.Identity or has_hooks(module):
            yield module


def inner_sequences(module: nn.Module) -> Iterable[nn.Module]:
    """The nn.Sequential inside that `flat` opens."""
    for child in module.children():
        if is_sequence(child) and not has_hooks(child):
            yield child
            yield from inner_sequences(child)


def is_sequence(module: nn.Module) -> bool:
    """Whether a module only calls its children one after the other."""
    forward: Any = original_class(module).forward
    return forward is nn.Sequential.forward and "forward" not in vars(module)


def foldable(convolution: Any, norm: Any) -> bool:
    """Whether `folded_parameters` has an answer for these two modules."""
    return (
        original_class(convolution) is nn.Conv2d
        and original_class(norm) is nn.BatchNorm2d
        and convolution.padding_mode == "zeros"
        and norm.affine
        and norm.running_mean is not None
        and not norm.training
        and not has_hooks(convolution)
        and not has_hooks(norm)
        and not_plain(convolution) is None
        and not_plain(norm) is None
    )


def pays(convolution: Any, norm: Any, x: torch.Tensor) -> bool:
    """Whether folding is possible, and its passes over the weights less than those it saves."""
    if not foldable(convolution, norm):
        return False
    stride = convolution.stride
    out = (
        x.shape[0]
        * convolution.out_channels
        * (x.shape[2] // stride[0])
        * (x.shape[3] // stride[1])
    )
    return out >= convolution.weight.numel()


def _convolve(
    convolution: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, act: Any
) -> torch.Tensor:
    limit = 6.0 if isinstance(act, nn.ReLU6) else float("inf")
    if type(convolution) is not nn.Conv2d:  # a depthwise one, exchanged
        y = dilated_conv2d(
            x,
            weight,
            bias,
            convolution.stride,
            convolution.padding,
            convolution.dilation,
            convolution.groups,
        )
        return y if act is None else y.clamp_(0.0, limit)
    if act is None:
        return convolve(convolution, x, weight, bias)
    return convolve_and_clamp(convolution, x, weight, bias, limit)


def _is_clamp(module: nn.Module) -> bool:
    return type(module) in (nn.ReLU, nn.ReLU6) and not has_hooks(module)


def run_resized(
    parts: list[torch.Tensor],
    layers: Iterable[nn.Module],
    size: tuple[int, int],
    mode: str = "bilinear",
    align_corners: bool = False,
) -> torch.Tensor:
    """The layers, of which the first is a convolution, on the parts resized and concatenated.

    The convolution must be one that `resizable` has nothing against.
    """

    def convolve(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return upsample_conv2d(parts, weight, bias, size, mode, align_corners)

    return run_after(convolve, layers)


def run_after(
    convolve: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
    layers: Iterable[nn.Module],
) -> torch.Tensor:
    """The layers, of which the first is a convolution, as convolve(weight, bias).

    Without gradients a batch norm in eval mode becomes part of its weight, as in `run`.
    """
    convolution, *after = flat(layers)
    weight, bias = convolution.weight, convolution.bias
    inference = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if inference and after and foldable(convolution, after[0]):
        weight, bias = folded_parameters(convolution, after.pop(0))
    y = convolve(weight, bias)
    if inference and after and _is_clamp(after[0]):
        y = y.clamp_(0.0, 6.0 if isinstance(after.pop(0), nn.ReLU6) else float("inf"))
    return run(y, *after)


def resizable(convolution: Any) -> str | None:
    """Why `run_resized` cannot compute a convolution, or None."""
    kernel = convolution.kernel_size
    if not isinstance(convolution, nn.Conv2d) or kernel not in ((1, 1), (3, 3)):
        return f"{convolution} is no 1x1 or 3x3 convolution"
    if convolution.padding != (kernel[0] // 2, kernel[1] // 2) or convolution.groups != 1:
        return f"{convolution} does not keep the size, or has groups"
    if convolution.stride != (1, 1) or convolution.dilation != (1, 1):
        return f"{convolution} has a stride or dilation"
    if convolution.padding_mode != "zeros":
        return f"padding_mode is {convolution.padding_mode!r}"
    return None
