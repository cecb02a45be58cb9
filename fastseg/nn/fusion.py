"""Models for inference, with their batch norms folded once."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from .._checks import check_module
from .altered import is_a
from .chain import is_sequence, opens
from .fold import can_be_folded, folded_parameters

Model = TypeVar("Model", bound=nn.Module)
_MARK = "_fastseg_fused"


class _Place(NamedTuple):
    """A module and its place in its parent."""

    module: Any
    parent: nn.Module
    name: str


def fuse(model: Model, dtype: torch.dtype | None = None) -> Model:
    """A copy of the model for inference, its batch norms folded into its convolutions.

    The weights are folded in float32 at least and rounded once; `predict_labels` and `forward` then
    run convolution, norm and activation as one pass over the map, where the device has that. The
    outputs are those of model.eval() up to rounding. The weights are in channels_last, the format
    that convolutions are fastest in, and so are the outputs of `forward`.

    A norm is folded where it follows a convolution in an nn.Sequential or in the `chains` that a
    module of fastseg lists. Layers that are used in two places, have hooks or train without
    parameters stay as they are, and so does everything else: any model may be given.

    The copy shares no memory with the model, which stays as it is. Its parameters cannot be
    trained, a fastseg model's `train` and `save_pretrained` then refuse, and its state_dict has
    other names: keep the model's to save and load. The copy moves to another device as any module
    does. Fusing it again returns it as it is.

    Args:
        model: in any mode; `eval()` is not needed.
        dtype: of the copy's weights, by default the model's. With bfloat16 or float16 the first
            layers of an encoder of fastseg keep theirs, and with float32 there nearly all labels
            are those of float32 (99.9 % of the pixels with the default model, in about two thirds
            of the time on a CPU that has bfloat16); such a model takes images of either dtype.

    Returns:
        A model of the same class, in eval mode, on the same device.

    Raises:
        ValueError: dtype is not a floating one, or is given for a model that is fused already.
        TypeError: model is no module.
    """
    check_module(model)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype is {dtype}, expected a floating one, such as torch.bfloat16")
    if is_fused(model):
        if dtype is not None:
            raise ValueError(
                f"dtype is {dtype}, but it is too late for that: the model is fused already"
            )
        return model
    fused = copy.deepcopy(model).eval().requires_grad_(False)
    uses = Counter(id(module) for _, module in fused.named_modules(remove_duplicate=False))
    for module in list(fused.modules()):
        for places in _chains(module):
            for one, other in itertools.pairwise(places):
                if can_be_folded(one.module, other.module) and (
                    uses[id(one.module)] == uses[id(other.module)] == 1
                ):
                    _fold(one.module, other)
    if dtype is not None:
        _cast(fused, dtype)
    fused.__dict__[_MARK] = True
    parameters: Any = fused
    return parameters.to(memory_format=torch.channels_last)


def is_fused(model: nn.Module) -> bool:
    """Whether the model comes from `fuse`."""
    return _MARK in model.__dict__


def _chains(module: nn.Module) -> Iterator[list[_Place]]:
    """The layers that `module` runs one after the other, those of nn.Sequential inside included."""
    named = _named_chains(module)
    if named:
        for names in named:
            yield [p for name in names for p in _flat(getattr(module, name), module, name)]
    elif is_sequence(module):
        yield [p for n, child in module._modules.items() for p in _flat(child, module, n)]


def _named_chains(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """A module's own `chains`, which are those of the forward that it has."""
    if "forward" in module.__dict__:
        return ()
    for kind in type(module).__mro__:
        if "chains" in kind.__dict__:
            return getattr(module, "chains", ())
        if "forward" in kind.__dict__:  # another one than the chains were named for
            return ()
    return ()


def _flat(module: Any, parent: nn.Module, name: str) -> Iterator[_Place]:
    """The layers of `chain.flat`, with their places."""
    if opens(module):
        for child_name, child in module._modules.items():
            yield from _flat(child, module, child_name)
    elif not is_a(module, nn.Identity):
        yield _Place(module, parent, name)


def _fold(convolution: nn.Conv2d, norm: _Place) -> None:
    weight, bias = folded_parameters(convolution, norm.module)
    convolution.weight = nn.Parameter(weight, requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)
    setattr(norm.parent, norm.name, nn.Identity())


def _cast(model: nn.Module, dtype: torch.dtype) -> None:
    """Every weight to dtype; those of early layers only where it has no fewer bits than float32."""
    early: set[nn.Module] = set()
    encoders: Any = [m for m in model.modules() if hasattr(m, "early_layers")]
    if torch.finfo(dtype).bits < 32:
        for encoder in encoders:
            encoder.mixed_dtypes = True
            early.update(m for layer in encoder.early_layers() for m in layer.modules())
    for module in model.modules():
        if module not in early:
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_floating_point():
                    setattr(module, name, buffer.to(dtype))
