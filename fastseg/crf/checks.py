"""Argument checks of the dense CRF: values that would end in NaN are refused."""

from __future__ import annotations

import operator
from typing import Any

import torch

from .._checks import check_map, is_integer

# Replaces scores of minus infinity: excludes a label as well, and differences stay numbers.
EXCLUDED = -1e30


def check_count(name: str, value: Any, least: int) -> int:
    """`value` is a whole number of at least `least`.

    Raises:
        ValueError: it is smaller. TypeError: it is no integer.
    """
    if not is_integer(value):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    count = operator.index(value)
    if count < least:
        raise ValueError(f"{name} is {value}, expected at least {least}")
    return count


def check_tensor(name: str, x: Any) -> None:
    """`x` is a tensor.

    Raises:
        TypeError: an array or something else.
    """
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}, expected a tensor")


def check_scores(name: str, x: torch.Tensor, classes: int, *, higher_is_better: bool) -> bool:
    """`x` is a map [N, `classes`, H, W] of scores, or of energies, that a softmax can take.

    A score may be minus infinity (an energy infinity), but not for every label of a pixel.

    Returns:
        Whether all are finite; False if the values cannot be read.

    Raises:
        ValueError: shape, NaN, the other infinity, a pixel without a possible label.
        TypeError: dtype, or no tensor.
    """
    check_tensor(name, x)
    check_map(name, x)
    if x.shape[1] != classes:
        raise ValueError(f"{name} has shape {tuple(x.shape)}, expected {classes} labels")
    return not _hidden(x) and check_values(name, x, higher_is_better=higher_is_better)


def check_values(name: str, x: torch.Tensor, *, higher_is_better: bool) -> bool:
    """Scores or energies [N, L, ...] are numbers, or exclude some but not all labels of a pixel.

    Returns:
        Whether all are finite.
    """
    least, most = torch.aminmax(x.detach())
    if bool(least.isfinite() & most.isfinite()):
        return True
    excluded = x.isneginf() if higher_is_better else x.isposinf()
    bad = ~(x.isfinite() | excluded)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        allowed = "-inf" if higher_is_better else "inf"
        raise ValueError(
            f"{name} has {x[index].item()} at {index}, expected numbers or, to exclude a label, "
            f"{allowed}"
        )
    hopeless = excluded.all(1)
    if bool(hopeless.any()):
        index = tuple(int(i) for i in hopeless.nonzero()[0])
        raise ValueError(f"{name} excludes every label of pixel {index[1:]} in image {index[0]}")
    return False


def check_finite(name: str, x: torch.Tensor) -> None:
    """`x` holds finite numbers.

    Raises:
        ValueError: NaN or an infinity; says where the first is.
    """
    if not x.is_floating_point() or _hidden(x):
        return
    least, most = torch.aminmax(x.detach())
    if not bool(least.isfinite() & most.isfinite()):
        index = tuple(int(i) for i in (~x.isfinite()).nonzero()[0])
        raise ValueError(f"{name} has {x[index].item()} at {index}, expected finite numbers")


def _hidden(x: torch.Tensor) -> bool:
    """Whether a tensor has no values to read: it is empty, or being traced."""
    return torch.compiler.is_compiling() or x.numel() == 0 or x.is_meta
