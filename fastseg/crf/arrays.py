"""Turns the arguments of pydensecrf's interface into tensors and numbers."""

from __future__ import annotations

import enum
import warnings
from typing import Any, TypeVar

import numpy
import torch

from .. import _native

Array = numpy.ndarray
Constant = TypeVar("Constant", bound=enum.IntEnum)


def copied(image: Array) -> torch.Tensor:
    """Copies a uint8 array into pooled memory."""
    words = _native.scratch(-(-image.size // 4))
    copy = words.view(torch.uint8)[: image.size].view(image.shape)
    copy.numpy()[...] = image
    return copy


def as_tensor(array: Array, dtype: Any) -> torch.Tensor:
    """Makes a tensor of an array of any strides; shares the array's memory if that is writable."""
    array = numpy.ascontiguousarray(array, dtype)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def as_constant(name: str, value: Any, constants: type[Constant]) -> Constant:
    """Makes one of pydensecrf's constants from its number."""
    try:
        return constants(value)
    except ValueError:
        allowed = ", ".join(c.name for c in constants)
        raise ValueError(f"{name} is {value!r}, allowed are {allowed}") from None


def as_count(name: str, value: Any) -> int:
    """Checks that a value, of any type, is a whole number of at least 1."""
    number = int(value)
    if number != value or number < 1:
        raise ValueError(f"{name} is {value}, expected a whole number of at least 1")
    return number


def as_widths(name: str, widths: Any, count: int) -> torch.Tensor:
    """Makes widths [count] from one number or a sequence."""
    try:
        array = numpy.asarray(widths, dtype=numpy.float32)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {widths!r}, expected one width or {count}") from None
    if array.ndim == 0:
        array = numpy.repeat(array, count)
    if array.ndim != 1 or len(array) < count:
        raise IndexError(f"{name} is {widths}, expected one width or {count}")
    if len(array) > count:
        warnings.warn(f"{name} has {len(array)} widths, only {count} are used", stacklevel=3)
    array = array[:count]
    if not (numpy.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} is {widths}, expected positive and finite widths")
    return torch.from_numpy(array)


def joined(parts: list[torch.Tensor]) -> Array:
    """Concatenates the values of all parts."""
    return torch.cat(
        [torch.empty(0, dtype=torch.float32, device="cpu"), *(p.reshape(-1) for p in parts)]
    ).numpy()


def split(v: Array, like: list[torch.Tensor]) -> list[torch.Tensor]:
    """Splits values into pieces of the sizes of `like`: the inverse of joined."""
    values = torch.from_numpy(numpy.asarray(v, dtype=numpy.float32).reshape(-1).copy())
    sizes = [p.numel() for p in like]
    if len(values) != sum(sizes):
        raise ValueError(f"there are {len(values)} parameters, expected {sum(sizes)}")
    return list(values.split(sizes))
