"""The known libraries, and the kind of each class."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator

from torch import nn

from ..nn.altered import original_class
from . import smp, torchvision, transformers
from .layers import ANYWHERE, LAYERS
from .library import Library
from .model import Model
from .queries import Queries
from .swap import Swap, full_name

LIBRARIES: tuple[Library, ...] = (torchvision.LIBRARY, smp.LIBRARY, transformers.LIBRARY)

_SWAPS = (*LAYERS, *(swap for library in LIBRARIES for swap in library.swaps))
_BY_CLASS = {name: swap for swap in _SWAPS for name in swap.classes}
_QUERIES = {name: q for library in LIBRARIES for q in library.queries for name in q.classes}
_PACKAGES = tuple(package for library in LIBRARIES for package in library.packages)


@dataclasses.dataclass(frozen=True)
class Kind:
    """The kind of a class.

    Attributes:
        swap: the kind of swap that its objects may be of.
        opens: whether the modules inside its objects are exchanged.
    """

    swap: Swap | None
    opens: bool


# Weak keys: parametrizations make a class per module.
_KINDS: weakref.WeakKeyDictionary[type, Kind] = weakref.WeakKeyDictionary()


def kind_of(module: nn.Module) -> Kind:
    """The kind of a module's class, which is looked up once."""
    kind = original_class(module)
    if kind not in _KINDS:
        _KINDS[kind] = _ask(kind)
    return _KINDS[kind]


def _ask(kind: type[nn.Module]) -> Kind:
    swap = _BY_CLASS.get(full_name(kind))
    if swap is None:
        definer = next(base for base in kind.__mro__ if "forward" in base.__dict__)
        inherited = _BY_CLASS.get(full_name(definer))
        swap = inherited if inherited is not None and inherited.subclasses else None
    return Kind(swap, f"{kind.__module__}.".startswith(_PACKAGES))


def swap_for(module: nn.Module) -> Swap | None:
    """The kind of swap that a module is of, or None."""
    swap = kind_of(module).swap
    return swap if swap is not None and swap.matches(module) else None


def model_for(module: nn.Module) -> Model | None:
    """The kind of whole model that a module is of, or None."""
    swap = swap_for(module)
    return swap if isinstance(swap, Model) else None


def queries_for(module: nn.Module) -> Queries | None:
    """The kind of whole model with masks of queries that a module is of, or None."""
    return _QUERIES.get(full_name(original_class(module)))


def candidates(root: nn.Module) -> Iterator[tuple[str, nn.Module, Swap]]:
    """Modules of known kinds and their paths, in the order of root.named_modules()."""
    seen: set[int] = set()

    def walk(module: nn.Module, path: str, inside: bool) -> Iterator[tuple[str, nn.Module, Swap]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        inside = inside or kind_of(module).opens
        swap = swap_for(module)
        if swap is not None and (inside or isinstance(swap, ANYWHERE)):
            yield path, module, swap
        for name, child in module.named_children():
            yield from walk(child, f"{path}.{name}" if path else name, inside)

    return walk(root, "", False)
