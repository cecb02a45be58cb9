"""Unary terms, as in pydensecrf: given energies, or energies linear in features."""

from __future__ import annotations

import abc
from typing import Any

import numpy
import torch


class Unary(abc.ABC):
    """Energies [L, P] of the labels without their neighbours, and the parameters they come from.

    Args:
        parameters: a matrix of finite numbers.
    """

    def __init__(self, parameters: Any) -> None:
        self._parameters = _matrix("u", parameters)

    @property
    def parameters(self) -> torch.Tensor:
        """Copy of the parameters."""
        return self._parameters.clone()

    def get(self) -> numpy.ndarray:
        """Copy of the parameters, float32."""
        return self._parameters.numpy().copy()

    def set(self, values: Any) -> None:
        """Replaces the parameters by others of the same shape."""
        values = _matrix("parameters", values)
        if values.shape != self._parameters.shape:
            raise ValueError(
                f"parameters have shape {tuple(values.shape)}, "
                f"expected {tuple(self._parameters.shape)}"
            )
        self._parameters = values

    @abc.abstractmethod
    def energies(self, parameters: torch.Tensor) -> torch.Tensor:
        """[L, P] for these parameters; differentiable."""


class ConstUnary(Unary):
    """Given energies; they are the parameters.

    Args:
        u: energies [L, P]; copied.
    """

    def __init__(self, u: Any) -> None:
        super().__init__(u)

    def energies(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters


class LogisticUnary(Unary):
    """Energies L @ f, linear in features.

    Args:
        L: weights [labels, F], the parameters; copied.
        f: features [F, P]; copied.
    """

    def __init__(self, L: Any, f: Any) -> None:
        super().__init__(L)
        self._features = _matrix("f", f)
        if self._parameters.shape[1] != self._features.shape[0]:
            raise ValueError(
                f"L has shape {tuple(self._parameters.shape)}, f {tuple(self._features.shape)}: "
                "expected as many columns of L as rows of f"
            )

    def energies(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters @ self._features


def _matrix(name: str, values: Any) -> torch.Tensor:
    array = numpy.array(values, dtype=numpy.float32, order="C")  # a copy: the caller may go on
    if array.ndim != 2:
        raise ValueError(f"{name} has {array.ndim} dimensions, expected 2")
    return torch.from_numpy(array)
