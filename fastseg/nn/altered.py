"""Decides which modules must be called, because they were altered, and which may be skipped.

fastseg computes several layers at once: it reads their parameters and calls none of them, which is
correct only for unmodified layers. Our own models, `fastseg.fuse` and `fastseg.accelerate` share
this one rule: hooks, parametrizations, pruning, adapters, quantised or sharded weights and an
instance's own forward all make fastseg call the module, whenever they are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from .._private_torch import FakeTensor, is_recorded, is_transformed

# Set on a class with fastseg's forward: the class it replaces, and the kind of swap.
MARK = "_fastseg_swap"
HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_GLOBAL_HOOKS: tuple[dict[int, Any], ...] = tuple(
    getattr(torch_module, f"_global{hooks}") for hooks in HOOKS
)

# The layers whose parameters may be read, each with the forward that this replaces.
_LAYERS: dict[type, Any] = {
    kind: kind.forward for kind in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)
}
# What holds a parameter: replicas of DataParallel have plain tensors, and tracing has fake ones.
_STORED = (nn.Parameter, torch.Tensor, FakeTensor)


def readable(kind: type[nn.Module]) -> Any:
    """Class decorator for a layer that depends on its parameters and arguments alone."""
    _LAYERS[kind] = kind.forward
    return kind


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module; where `accelerate` exchanged it, the one before.

    If sharding or a parametrization subclassed our class, the class ours replaced.
    """
    mark = getattr(type(module), MARK, None)
    return type(module) if mark is None else mark[0]


def has_hooks(module: nn.Module) -> bool:
    """Whether calling this module runs hooks."""
    state = module.__dict__
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
    )


def all_are_watched() -> bool:
    """Whether hooks are registered for every module there is.

    FlopCounterMode's do not count: it counts what is really computed.
    """
    if not any(_GLOBAL_HOOKS):
        return False
    for hooks in _GLOBAL_HOOKS:
        for hook in hooks.values():
            if getattr(hook, "__module__", None) != "torch.utils.module_tracker":
                return True
    return False


def is_run_as_written() -> bool:
    """Whether modules must call every submodule: our ops would be recorded as constants.

    True under torch.jit.trace, which records sizes as numbers, torch.fx's tracer, torch.func's
    transforms and forward-mode differentiation.
    """
    if torch.compiler.is_compiling():
        return False
    return is_recorded() or is_transformed()


def is_unaltered(module: nn.Module) -> bool:
    """Whether a module without parameters runs its class's forward, and has no hooks."""
    return "forward" not in module.__dict__ and not has_hooks(module)


def is_a(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module is of one of these very classes, unaltered: it need not be called."""
    return original_class(module) in kinds and is_unaltered(module)


def plain_class(module: nn.Module) -> type[nn.Module] | None:
    """The class whose forward a call of this module runs, and nothing else; None if altered.

    `why_called` says what counts; this is the same in one call, for each layer of a chain.
    """
    kind: Any = type(module)
    mark = getattr(kind, MARK, None)
    known = kind if mark is None else mark[0]
    state = module.__dict__
    if (
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
    ):
        return None
    forward = _LAYERS.get(known)
    if forward is not None:
        if known.forward is not forward or (kind is not known and MARK not in kind.__dict__):
            return None
        for value in state["_parameters"].values():
            if value is not None and type(value) not in _STORED:
                return None
    return known


def not_plain(layer: nn.Module) -> str | None:
    """Why the parameters of a layer cannot be used without calling it, or None."""
    kind = type(layer)
    known = original_class(layer)
    if known not in _LAYERS or (kind is not known and MARK not in kind.__dict__):
        return f"a {kind.__name__} is inside"
    if known.forward is not _LAYERS[known]:
        return f"the forward of all {known.__name__} is overridden"
    for name, value in layer._parameters.items():
        if value is not None and type(value) not in _STORED:
            return f"{name} of a {known.__name__} is a {type(value).__name__}"
    return None


def why_called(module: nn.Module) -> str | None:
    """Why a module has to be called itself, or None if it may be passed over.

    For a module without parameters of its own, such as a container, this checks neither its class
    nor its submodules.
    """
    if has_hooks(module):
        return f"a {original_class(module).__name__} inside has hooks"
    if "forward" in module.__dict__:
        return f"the forward of a {original_class(module).__name__} is overridden"
    if module._parameters or original_class(module) in _LAYERS:
        return not_plain(module)
    return None


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def why_not_short(
    module: Any,
    skips: Callable[[Any], Iterable[nn.Module]],
    unfit: Callable[[Any], str | None] | None = None,
) -> str | None:
    """Why a module must call its submodules instead of computing them at once; None if it need not.

    Skipped modules have to be PyTorch's, ours, or of the module's own library: a
    user's own class, such as an adapter around a layer, is called however much it looks like one.

    Args:
        module: the one that is called.
        skips: its submodules that the short way does not call.
        unfit: why the module is not built as the short way expects, or None.
    """
    if all_are_watched():
        return "hooks are registered for all modules"
    try:
        reason = None if unfit is None else unfit(module)
        if reason is not None:
            return reason
        known = ("torch", "fastseg", _package(original_class(module)))
        for part in skips(module):
            kind = original_class(part)
            if _package(kind) not in known:
                return f"a {kind.__name__} is inside"
            if (reason := why_called(part)) is not None:
                return reason
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return f"is not built as expected ({error})"
    return None
