"""A pairwise term as in pydensecrf: features, kernel, normalisation, compatibility."""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch

from ..ops.permutohedral_filter import Lattice, permutohedral_filter
from .checks import check_finite
from .compatibility import LabelCompatibility
from .filters import Apply, Normalization, normalized
from .mean_field import Kernel


class KernelType(enum.IntEnum):
    """The parameters of a kernel: none, a scale per feature, or a matrix."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(enum.IntEnum):
    """The sides of the filter that are divided by the sum of the kernel's weights."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


_NAMES: dict[NormalizationType, Normalization] = {
    NormalizationType.NO_NORMALIZATION: "none",
    NormalizationType.NORMALIZE_BEFORE: "before",
    NormalizationType.NORMALIZE_AFTER: "after",
    NormalizationType.NORMALIZE_SYMMETRIC: "symmetric",
}


class Pairwise:
    """A Gaussian kernel over features [D, P], which `features` gives, with its lattice.

    Raises:
        ValueError: features that are not finite, or too large for the lattice.
    """

    def __init__(
        self,
        features: Callable[[], torch.Tensor],
        compat: LabelCompatibility,
        kernel: KernelType,
        normalization: NormalizationType,
        lattice: Lattice | None = None,
    ) -> None:
        if lattice is None:
            check_finite("features", features())
            lattice = Lattice(features())
        self.lattice = lattice
        self.compat = compat
        self.normalization = _NAMES[normalization]
        self._features = features
        self._type = kernel
        if kernel is KernelType.CONST_KERNEL:
            self._parameters = torch.empty(0, dtype=torch.float32, device="cpu")
        elif kernel is KernelType.DIAG_KERNEL:
            self._parameters = torch.ones(lattice.num_features, dtype=torch.float32, device="cpu")
        else:
            self._parameters = torch.eye(lattice.num_features, dtype=torch.float32, device="cpu")

    @property
    def kernel_parameters(self) -> torch.Tensor:
        """Copy of the kernel's parameters."""
        return self._parameters.clone()

    def set_kernel_parameters(self, values: torch.Tensor) -> None:
        """Replaces them; the lattice is built anew."""
        parameters = values.reshape(self._parameters.shape)
        features = self._scaled(parameters)
        check_finite("features", features)
        self.lattice = Lattice(features)
        self._parameters = parameters.clone()

    @property
    def kernel(self) -> Kernel:
        """The term as mean_field takes it: compatibilities that attract."""
        mu = self.compat.compat(self.compat.parameters)
        return Kernel(self.lattice, mu if mu.dim() == 0 else -mu, self.normalization)

    def energies(self, q: torch.Tensor) -> torch.Tensor:
        """The energies [1, L, P] that the term adds for probabilities [1, L, P]."""
        before, after = self.lattice.scales(self.normalization)
        q = self.lattice.filter(q if before is None else q * before[:, None])
        if after is not None:
            q = q * after[:, None]
        return self.compat.energies(q, self.compat.parameters)

    def differentiable(self, parameters: torch.Tensor) -> Apply:
        """The normalised filter as a differentiable function of the kernel's parameters too."""
        f = self._scaled(parameters)[None]
        ones = f.new_ones(1, 1, f.shape[2])
        return normalized(lambda v: permutohedral_filter(v, f), ones, self.normalization)

    def _scaled(self, parameters: torch.Tensor) -> torch.Tensor:
        if self._type is KernelType.CONST_KERNEL:
            return self._features()
        if self._type is KernelType.DIAG_KERNEL:
            return parameters[:, None] * self._features()
        return parameters @ self._features()
