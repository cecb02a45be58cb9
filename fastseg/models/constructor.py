"""Models from arguments that stand in a file: checked first, and built without allocating."""

from __future__ import annotations

import contextlib
import inspect
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .._json import checked
from .._messages import shortened
from .._schema import (
    PLAIN,
    Array,
    Boolean,
    Integer,
    Null,
    Number,
    Record,
    Schema,
    Table,
    Text,
    either,
)  # fmt: skip
from ..classes import ClassSet

_LARGEST = 1 << 24  # of a number of channels, a size, a rate
_LONGEST = 4096  # of a list
_SPARE = 1000  # parameters that a constructor may make besides those that the file has


def build(
    origin: str, cls: type[Any], arguments: Mapping[str, Any], tensors: int, **trusted: Any
) -> Any:
    """A model on the meta device.

    A small file can ask for millions of layers. Their number is limited by that of its tensors.
    The encoder's weights are in the file too: none are downloaded, whatever its arguments say.

    Args:
        origin: what messages call the file.
        cls: class of the model.
        arguments: of its constructor, as they stand in the file.
        tensors: how many the file has.
        trusted: more arguments, which are not checked.

    Raises:
        ValueError: arguments that the constructor does not take; in one line.
    """
    given: dict[str, Any] = checked(origin, dict(arguments), arguments_schema(cls))
    if "encoder_weights" in inspect.signature(cls.__init__).parameters:
        given["encoder_weights"] = None
        trusted.pop("encoder_weights", None)
    try:
        with torch.device("meta"), _at_most(4 * tensors + _SPARE):
            return cls(**given, **trusted)
    except Exception as error:  # what constructors of any encoder raise at odd arguments
        raise ValueError(f"{origin}: fits no {cls.__name__} ({shortened(error)})") from error


def arguments_schema(cls: type[Any]) -> Record:
    """What a constructor's arguments look like in JSON, from its annotations."""
    hints = typing.get_type_hints(cls.__init__)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    others = PLAIN if any(p.kind is p.VAR_KEYWORD for p in parameters) else None
    return Record(optional={name: _schema(hints.get(name, Any)) for name in named}, others=others)


_KINDS: dict[Any, Schema] = {
    int: Integer(-_LARGEST, _LARGEST),
    float: Number(),
    bool: Boolean(),
    str: Text(),
    type(None): Null(),
}


def _schema(annotation: Any) -> Schema:
    """The schema of the JSON values that fit an annotation; any plain value where it says less."""
    if annotation in _KINDS:
        return _KINDS[annotation]
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [_schema(kind) for kind in inside if _in_json(kind)]
        return kinds[0] if len(kinds) == 1 else either(*kinds)
    if origin is typing.Literal:
        return Text(inside) if all(isinstance(name, str) for name in inside) else PLAIN
    if origin is tuple and Ellipsis not in inside:
        return Array(_schema(inside[0]), len(inside), len(inside))
    if origin in (list, tuple, Sequence):
        return Array(_schema(inside[0]), longest=_LONGEST)
    if origin in (dict, Mapping):
        return Table(PLAIN, longest=_LONGEST)
    return PLAIN


def _in_json(annotation: Any) -> bool:
    """Whether values of this type can stand in a file; classes and functions cannot."""
    return annotation is not ClassSet and typing.get_origin(annotation) is not Callable


@contextlib.contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Stops constructors of this thread that make more parameters."""
    thread, made = threading.get_ident(), 0

    def made_one(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        nonlocal made
        if threading.get_ident() == thread:
            made += 1
            if made > count:
                raise ValueError(f"it has more than {count} parameters, far more than its file")

    hook = register_module_parameter_registration_hook(made_one)
    try:
        yield
    finally:
        hook.remove()
