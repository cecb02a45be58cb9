"""Label compatibilities, as in pydensecrf: the cost of two labels beside each other."""

from __future__ import annotations

import abc
from typing import Any

import numpy
import torch


class LabelCompatibility(abc.ABC):
    """Turns filtered probabilities into energies.

    Args:
        parameters: what learning changes, a vector [K].
    """

    def __init__(self, parameters: torch.Tensor) -> None:
        self._parameters = parameters

    @property
    def parameters(self) -> torch.Tensor:
        """Copy of the parameters, [K]."""
        return self._parameters.clone()

    @parameters.setter
    def parameters(self, values: Any) -> None:
        values = torch.as_tensor(values, dtype=torch.float32, device="cpu")
        if values.shape != self._parameters.shape:
            raise ValueError(
                f"parameters have shape {tuple(values.shape)}, "
                f"expected {tuple(self._parameters.shape)}"
            )
        self._parameters = values.clone()

    @abc.abstractmethod
    def compat(self, parameters: torch.Tensor) -> torch.Tensor:
        """The compatibility mu: a number (), energies [L] or a matrix [L, L]; energies are mu times
        the filtered probabilities, for a number minus them."""

    def energies(self, filtered: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        """Energies [..., L, P] for filtered probabilities [..., L, P]."""
        mu = self.compat(parameters).to(filtered.dtype)
        if mu.dim() == 0:
            return -mu * filtered
        return mu[:, None] * filtered if mu.dim() == 1 else mu @ filtered


class PottsCompatibility(LabelCompatibility):
    """Equal labels attract each other: energy -weight * Q.

    Args:
        weight: of all labels.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(torch.tensor([float(weight)], dtype=torch.float32, device="cpu"))

    def compat(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters[0]


class DiagonalCompatibility(LabelCompatibility):
    """A factor per label: energy v[l] * Q[l]. Negative factors attract.

    Args:
        v: factors [L].
    """

    def __init__(self, v: Any) -> None:
        super().__init__(_as_tensor("v", v, 1))

    def compat(self, parameters: torch.Tensor) -> torch.Tensor:
        return parameters


class MatrixCompatibility(LabelCompatibility):
    """A factor per pair of labels: energy (m + m^T) / 2 @ Q. Negative factors attract.

    The parameters are the upper triangle of the symmetric matrix, row by row.

    Args:
        m: factors [L, L].
    """

    def __init__(self, m: Any) -> None:
        m = _as_tensor("m", m, 2)
        if m.shape[0] != m.shape[1]:
            raise ValueError(f"m has shape {tuple(m.shape)}, expected a square matrix")
        self._size = m.shape[0]
        rows, columns = torch.triu_indices(self._size, self._size, device="cpu")
        super().__init__(((m + m.T) / 2)[rows, columns])

    def compat(self, parameters: torch.Tensor) -> torch.Tensor:
        index = torch.zeros(self._size, self._size, dtype=torch.long, device="cpu")
        rows, columns = torch.triu_indices(self._size, self._size, device="cpu")
        index[rows, columns] = index[columns, rows] = torch.arange(len(parameters), device="cpu")
        return parameters[index]


def as_compatibility(compat: Any, labels: int) -> LabelCompatibility:
    """Makes a compatibility from a number, a vector, a matrix or an object.

    Raises:
        ValueError: a number of dimensions or a size that does not fit; numbers that are not finite.
        TypeError: something else.
    """
    result = compat if isinstance(compat, LabelCompatibility) else _parse(compat)
    shape = result.compat(result.parameters).shape
    if any(n != labels for n in shape):
        raise ValueError(f"compat has shape {tuple(shape)}, expected {labels} labels")
    if not bool(result.parameters.isfinite().all()):
        raise ValueError("compat has numbers that are not finite")
    return result


def _parse(compat: Any) -> LabelCompatibility:
    try:
        array = numpy.asarray(compat, dtype=numpy.float32)
    except (TypeError, ValueError):
        raise TypeError(
            f"compat is {compat!r}, expected a number, a vector [L] or a matrix [L, L]"
        ) from None
    if array.ndim == 0:
        return PottsCompatibility(float(array))
    if array.ndim == 1:
        return DiagonalCompatibility(array)
    if array.ndim == 2:
        return MatrixCompatibility(array)
    raise ValueError(f"compat has {array.ndim} dimensions, expected a number, [L] or [L, L]")


def _as_tensor(name: str, values: Any, dims: int) -> torch.Tensor:
    tensor = torch.from_numpy(numpy.array(values, dtype=numpy.float32))
    if tensor.dim() != dims:
        raise ValueError(f"{name} has {tensor.dim()} dimensions, expected {dims}")
    return tensor
