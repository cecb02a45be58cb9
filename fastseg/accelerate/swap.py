"""Somebody else's modules with fastseg's forward: their class is exchanged, and nothing else.

The module stays the same object: its parameters, buffers, submodules, hooks and mode, its names in
the state_dict, and whatever refers to it (optimizers, DDP) are untouched. Its new class is derived
from the old one, so isinstance holds too.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from ..nn.altered import MARK, is_transformed, original_class, why_not_short


def _none(module: Any) -> Iterable[nn.Module]:
    return ()


def _fits(module: Any) -> str | None:
    return None


@dataclasses.dataclass(frozen=True)
class Swap:
    """One kind of module that fastseg computes faster.

    Attributes:
        key: its name, under which pickles find it again.
        what: what is done differently, for the report.
        matches: whether a module is of this kind.
        forward: forward(module, *arguments of the original), in its place.
        arguments: names of the arguments of the original forward; with others the module is left
            alone, since its library has changed. None for any.
        skips: submodules that `forward` does not call, or whose parameters it reads.
        unfit: why a module of this kind is left alone, or None.
    """

    key: str
    what: str
    matches: Callable[[nn.Module], bool]
    forward: Callable[..., Any]
    arguments: tuple[str, ...] | None = None
    skips: Callable[[Any], Iterable[nn.Module]] = _none
    unfit: Callable[[Any], str | None] = _fits


SWAPS: dict[str, Swap] = {}


def register(*swaps: Swap) -> None:
    """Makes kinds of modules known; where several match, the first registered is taken."""
    for swap in swaps:
        SWAPS[swap.key] = swap


def named(module: str, *names: str) -> Callable[[nn.Module], bool]:
    """Matches classes by where they are defined, without importing that."""

    def matches(candidate: nn.Module) -> bool:
        kind = original_class(candidate)
        return kind.__module__ == module and kind.__name__ in names

    return matches


def swap_of(module: nn.Module) -> Swap | None:
    """What a module's forward has been exchanged for, if it has."""
    mark = getattr(type(module), MARK, None)
    return None if mark is None else mark[1]


def reason_against(swap: Swap, module: Any) -> str | None:
    """Why a module that matches is left alone, or None."""
    if swap.arguments is not None:
        found = tuple(_arguments(original_class(module)))
        if found != swap.arguments:
            return f"forward takes ({', '.join(found)}), known is ({', '.join(swap.arguments)})"
    if "forward" in vars(module):
        return "its forward is overridden"
    return why_not_short(module, swap.skips, swap.unfit)


def _arguments(kind: Any) -> Iterable[str]:
    """Names of the arguments of a class's forward, without self, *args and **kwargs."""
    for name, parameter in list(inspect.signature(kind.forward).parameters.items())[1:]:
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            yield name


def swap_in(module: nn.Module, swap: Swap) -> None:
    """Exchanges the class of a module."""
    kind: Any = original_class(module)
    module.__class__ = swapped_class(kind, swap.key)


def swap_out(module: nn.Module) -> bool:
    """Gives a module its own class back; whether it had another one."""
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
def swapped_class(original: type[nn.Module], key: str) -> type[nn.Module]:
    """A class derived from `original` with the forward of a kind of swap.

    It keeps the name, which libraries write into configuration files.
    """
    swap = SWAPS[key]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_transformed() or why_not_short(self, swap.skips, swap.unfit) is not None:
            return original.forward(self, *args, **kwargs)
        return swap.forward(self, *args, **kwargs)

    def reduce(self: Any, protocol: Any) -> Any:
        parts = list(original.__reduce_ex__(self, protocol))
        parts[:2] = [_rebuild, (original, key)]
        return tuple(parts)

    def get_name(self: Any) -> str:
        return f"{original.__name__} by fastseg"

    content: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__reduce_ex__": reduce,
        "_get_name": get_name,
        "forward": functools.update_wrapper(forward, original.forward),
        MARK: (original, swap),
    }
    return type(original.__name__, (original,), content)


def _rebuild(original: Any, key: str) -> nn.Module:
    kind: Any = swapped_class(original, key)
    return kind.__new__(kind)
