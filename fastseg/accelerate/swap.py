"""Gives another library's modules fastseg's forward by exchanging their class, and nothing else.

The module stays the same object: its parameters, buffers, submodules, hooks and mode, its names in
the state_dict, and whatever refers to it (optimizers, DDP) are untouched. Its new class derives
from the old one, so isinstance holds too.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..nn.altered import MARK, is_run_as_written, original_class, why_not_short
from .switch import low_resolution


class Swap:
    """A kind of module that fastseg runs faster; each kind is a subclass without state.

    Every method takes the other library's module, which is not the swap itself.

    Attributes:
        what: how fastseg runs it, for the report.
        classes: full names of the classes whose forward this replaces. Naming them, instead of
            importing them, leaves their library alone until it is used.
        subclasses: whether classes that inherit that forward are of this kind too.
        forward: forward(module, *arguments of the original), in its place. The arguments have the
            original's names: if the library's differ, it has changed, and the module is left alone.
    """

    what: str
    classes: tuple[str, ...]
    subclasses: bool = False
    forward: Callable[..., Any]

    def matches(self, module: Any) -> bool:
        """Whether a module of one of the classes is of this kind."""
        return True

    def skips(self, module: Any) -> Iterable[nn.Module]:
        """Submodules that `forward` does not call, or whose parameters it reads.

        All of them have to be PyTorch's or of the same library: a user's module in the place of one
        is called, with all the others.
        """
        return ()

    def covers(self, module: Any) -> Iterable[nn.Module]:
        """Submodules that need no swap of their own, since this one runs what they do."""
        return self.skips(module)

    def unfit(self, module: Any) -> str | None:
        """Why `forward` cannot run a module of this kind, or None.

        Errors that reading an unexpected structure raises (AttributeError and the like) count as a
        reason. It is asked again at every call, since a user may exchange layers at any time.
        """
        return None


def full_name(kind: type) -> str:
    """The name of a class in `Swap.classes`."""
    return f"{kind.__module__}.{kind.__name__}"


def swap_of(module: nn.Module) -> Swap | None:
    """The swap of a module whose class was exchanged, or None."""
    mark = getattr(type(module), MARK, None)
    return None if mark is None else mark[1]


def reason_against(swap: Swap, module: Any) -> str | None:
    """Why a module that matches is left alone, or None."""
    found, known = _arguments(original_class(module).forward), _arguments(type(swap).forward)
    if found != known[1:]:
        return f"forward takes ({', '.join(found)}), known is ({', '.join(known[1:])})"
    if "forward" in vars(module):
        return "its forward is overridden"
    return reason_at_call(swap, module)


def reason_at_call(swap: Swap, module: Any) -> str | None:
    """Why an exchanged module runs its original forward this time, or None."""
    kind = type(swap)
    if kind.skips is Swap.skips and kind.unfit is Swap.unfit:
        return None  # it calls all that is inside
    return why_not_short(module, swap.skips, swap.unfit)


def _arguments(forward: Any) -> list[str]:
    """Names of a method's arguments, without self, *args and **kwargs."""
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [parameter.name for parameter in named]


def swap_in(module: nn.Module, swap: Swap) -> None:
    """Exchanges the class of a module."""
    kind: Any = original_class(module)
    made: Any = type(swap)
    module.__class__ = swapped_class(kind, made)


def swap_out(module: nn.Module) -> bool:
    """Restores a module's class; returns whether it was exchanged."""
    kind = type(module)
    if MARK in kind.__dict__:
        module.__class__ = original_class(module)
        return True
    # Sharding and parametrizing derive classes too, from ours.
    if any(MARK in base.__dict__ for base in kind.__mro__):
        module.__class__ = _without_ours(kind)
        return True
    return False


def _without_ours(kind: type) -> type:
    if MARK in kind.__dict__:
        return kind.__dict__[MARK][0]
    bases = tuple(_without_ours(b) if _is_ours(b) else b for b in kind.__bases__)
    content = {k: v for k, v in kind.__dict__.items() if k not in ("__dict__", "__weakref__")}
    return type(kind.__name__, bases, content)


def _is_ours(kind: type) -> bool:
    return any(MARK in base.__dict__ for base in kind.__mro__)


@functools.cache
def swapped_class(original: Any, kind: Any) -> Any:
    """A class derived from `original` with the forward of a kind of swap.

    It keeps the name, which libraries write into configuration files.
    """
    swap = kind()

    def reduce(self: Any, protocol: Any) -> Any:
        parts = list(original.__reduce_ex__(self, protocol))
        parts[:2] = [_rebuild, (original, kind)]
        return tuple(parts)

    def get_name(self: Any) -> str:
        return f"{original.__name__} by fastseg"

    content: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__reduce_ex__": reduce,
        "__prepare_scriptable__": _scriptable,
        "_get_name": get_name,
        "forward": _forward(original, swap),
        MARK: (original, swap),
    }
    return type(original.__name__, (original,), content)


def _rebuild(original: Any, kind: Any) -> nn.Module:
    made: Any = swapped_class(original, kind)
    return made.__new__(made)


def _forward(original: Any, swap: Swap) -> Any:
    """Makes the forward of an exchanged class, which runs the swap's or the original one."""
    fastseg_written, fastseg_reason, fastseg_low = is_run_as_written, reason_at_call, low_resolution

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Low-resolution logits are the swap's alone, and no more than calls of submodules.
        if fastseg_written() and not fastseg_low(self):
            return original.forward(self, *args, **kwargs)
        if fastseg_reason(swap, self) is not None:
            return original.forward(self, *args, **kwargs)
        return swap.forward(self, *args, **kwargs)

    # TorchScript compiles the source that __wrapped__ leads to, the original's, and looks its names
    # up in the function's globals: they have to be the original's as well.
    globals_ = getattr(inspect.unwrap(original.forward), "__globals__", forward.__globals__)
    made = types.FunctionType(forward.__code__, globals_, "forward", None, forward.__closure__)
    return functools.update_wrapper(made, original.forward)


def _scriptable(self: Any) -> Any:
    """Called by torch.jit.script before it compiles a module: the original forward runs."""
    if low_resolution(self):
        raise ValueError(
            "a scripted model gives logits at the size of the images: call "
            "fastseg.accelerate(model, low_resolution=False) before torch.jit.script"
        )
    return self
