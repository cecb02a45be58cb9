"""pydensecrf.densecrf for programs written against it: numpy in and out, the same names.

    import fastseg.crf.densecrf as dcrf          # was: import pydensecrf.densecrf as dcrf
    from fastseg.crf.utils import unary_from_labels

Results are pydensecrf's up to rounding (docs/crf.md says how far). If pydensecrf reads memory
that is not its own, or goes on with NaN, this module raises an error; it takes float64 and
non-contiguous arrays, which pydensecrf refuses. The layer for networks is fastseg.crf.DenseCRF; the
class of the same name in this module is pydensecrf's, of any number of dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import torch

from .. import _native
from ..ops.permutohedral_filter.image_features import image_features
from ..ops.permutohedral_filter.lattice import Lattice
from .arrays import Array, as_constant, as_count, as_tensor, as_widths, copied, joined, split
from .checks import EXCLUDED, check_values
from .compatibility import (
    DiagonalCompatibility,
    LabelCompatibility,
    MatrixCompatibility,
    PottsCompatibility,
    as_compatibility,
)
from .features import positions
from .fixed_order import softmax
from .mean_field import (
    MAX_KERNELS,
    Kernel,
    composition,
    mean_field,
    mean_field_labels,
    negated,
)
from .pairwise import KernelType, NormalizationType, Pairwise
from .spatial import position_lattice
from .unaries import ConstUnary, LogisticUnary, Unary

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "DiagonalCompatibility",
    "Gradient",
    "KernelType",
    "LabelCompatibility",
    "LogisticUnary",
    "MatrixCompatibility",
    "NormalizationType",
    "PottsCompatibility",
    "Unary",
]

CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC


class Gradient(NamedTuple):
    """An objective and its derivatives, as DenseCRF.gradient returns them.

    Attributes:
        value: of the objective.
        unary: derivative to the unary's parameters, in their shape.
        compatibility, kernel: derivatives to the parameters of all terms, in the order in which
            the terms were added.
    """

    value: float
    unary: Array
    compatibility: Array
    kernel: Array


class DenseCRF:
    """A dense CRF over variables that any features connect, with pydensecrf's interface.

    Args:
        nvar: number of variables.
        nlabels: number of labels of each.

    Raises:
        ValueError: a number below 1. TypeError: one that is no integer.
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        _keep_to_one_thread_after_fork()
        self._variables = as_count("nvar", nvar)
        self._labels = as_count("nlabels", nlabels)
        self._unary: Unary | None = None
        self._given_logits: torch.Tensor | None = None
        self._terms: list[Pairwise] = []

    def setUnary(self, unary: Unary) -> None:
        """Sets the unary term."""
        if not isinstance(unary, Unary):
            raise TypeError(f"unary is a {type(unary).__name__}, expected a Unary")
        energies = unary.energies(unary.parameters)
        expected = (self._labels, self._variables)
        if tuple(energies.shape) != expected:
            raise ValueError(f"unary has shape {tuple(energies.shape)}, expected {expected}")
        self._set_energies(energies)
        self._unary = unary

    def setUnaryEnergy(self, u: Array, f: Array | None = None) -> None:
        """Sets the energies of the labels without their neighbours: negative log-probabilities.

        Args:
            u: energies [nlabels, nvar], copied; infinity excludes a label. With `f`: weights
                [nlabels, F] of a logistic unary.
            f: features [F, nvar]; the energies then are u @ f.

        Raises:
            ValueError: shape; NaN or minus infinity; a variable without a possible label.
        """
        if f is not None:
            self.setUnary(LogisticUnary(u, f))
            return
        u = numpy.asarray(u)
        if u.ndim != 2:
            raise ValueError(f"unary energy has {u.ndim} dimensions, expected 2 (labels, pixels)")
        expected = (self._labels, self._variables)
        if u.shape != expected:
            raise ValueError(f"Bad shape for unary energy (Need {expected}, got {u.shape})")
        self._set_energies(as_tensor(u, numpy.float32))
        self._unary = None

    def _set_energies(self, energies: torch.Tensor) -> None:
        energies = energies.detach().contiguous()
        negative = _native.scratch(1, *energies.shape)
        if not negated(energies, negative):
            check_values("unary energy", energies[None], higher_is_better=False)
        self._given_logits = negative

    def addPairwiseEnergy(
        self,
        features: Array,
        compat: Any,
        kernel: KernelType = DIAG_KERNEL,
        normalization: NormalizationType = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Connects all variables by a Gaussian kernel over their features.

        Args:
            features: [D, nvar] in units of the kernel's width, D of at least 1; copied.
            compat: a number w: equal labels attract, energy -w * Q; a vector [nlabels] or a matrix
                [nlabels, nlabels]: energies with their own sign. Or a LabelCompatibility.
            kernel: which parameters the kernel has for learning; all give the same result at first.
            normalization: of the filter.

        Raises:
            ValueError: shapes; features or compat that are not finite, features too large for the
                lattice; unknown constants.
        """
        features = numpy.asarray(features)
        if features.ndim != 2 or features.shape[1] != self._variables or features.shape[0] == 0:
            raise ValueError(
                f"Bad shape for pairwise energy (Need (?, {self._variables}), got {features.shape})"
            )
        # A copy: gradient and setKernelParameters read them again.
        tensor = torch.from_numpy(numpy.array(features, numpy.float32, order="C"))
        self._add(lambda: tensor, compat, kernel, normalization)

    def _add(
        self,
        features: Callable[[], torch.Tensor],
        compat: Any,
        kernel: int,
        normalization: int,
        lattice: Lattice | None = None,
    ) -> None:
        """`lattice`: that of the features, where there is one already."""
        mu = as_compatibility(compat, self._labels)
        kind = as_constant("kernel", kernel, KernelType)
        norm = as_constant("normalization", normalization, NormalizationType)
        self._terms.append(Pairwise(features, mu, kind, norm, lattice))

    def inference(self, n_iterations: int) -> Array:
        """Probabilities Q [nlabels, nvar], float32, after `n_iterations` mean-field steps."""
        with torch.no_grad():
            return self._mean_field(mean_field, composition, n_iterations)[0].numpy()

    def startInference(self) -> tuple[Array, Array, Array]:
        """(Q, tmp1, tmp2) for stepInference: Q before the first step, and two arrays that it takes
        because pydensecrf's does; they stay as they are."""
        q = softmax(self._logits)[0].numpy()
        return q, numpy.zeros_like(q), numpy.zeros_like(q)

    def stepInference(self, Q: Array, tmp1: Array | None = None, tmp2: Array | None = None) -> None:
        """One mean-field step; writes the new probabilities to Q."""
        with torch.no_grad():
            Q[...] = self._step(self._as_q(Q))[0].numpy()

    def klDivergence(self, Q: Array) -> float:
        """pydensecrf's measure of progress for probabilities Q [nlabels, nvar].

        sum Q log Q + sum Q U + sum over terms of Q mu(F Q): the Kullback-Leibler divergence up to a
        constant, but with the pairwise part counted twice. Only its decrease means something.
        """
        q = self._as_q(Q)
        with torch.no_grad():
            total = (q * q.clamp_min(1e-20).log()).sum(dtype=torch.float64)
            # Where an infinite energy excludes a label, its probability is 0.
            total -= (q * self._logits).nan_to_num(0.0).sum(dtype=torch.float64)
            for term in self._terms:
                total += (q * term.energies(q)).sum(dtype=torch.float64)
        return float(total)

    def map(self, n_iterations: int) -> Array:
        """The most probable label of each variable, int64 [nvar], after `n_iterations` steps."""
        with torch.no_grad():
            labels = self._mean_field(mean_field_labels, _composed_labels, n_iterations)
        return labels[0].numpy().astype(numpy.int64)

    def gradient(
        self, n_iterations: int, objective: Callable[[torch.Tensor], torch.Tensor]
    ) -> Gradient:
        """Derivatives of an objective of Q after `n_iterations` steps to all parameters.

        Derivatives of the computation of inference, at fixed simplices of the lattice; pydensecrf's
        C++ code swaps the order of the blur's axes in the kernels' derivative.

        Args:
            n_iterations: mean-field steps.
            objective: maps probabilities [nlabels, nvar], a tensor, to a number by differentiable
                operations.
        """
        unary = self._own_unary()
        leaves = [
            unary.parameters,
            *(term.compat.parameters for term in self._terms),
            *(term.kernel_parameters for term in self._terms),
        ]
        for leaf in leaves:
            leaf.requires_grad_()
        count = len(self._terms)
        mus, kernels = leaves[1 : 1 + count], leaves[1 + count :]
        scores = (-unary.energies(leaves[0])[None]).clamp_min(EXCLUDED)
        filters = [t.differentiable(p) for t, p in zip(self._terms, kernels, strict=True)]
        q = scores.softmax(1)
        for _ in range(max(0, int(n_iterations))):
            refined = scores
            for term, apply, mu in zip(self._terms, filters, mus, strict=True):
                refined = refined - term.compat.energies(apply(q), mu)
            q = refined.softmax(1)
        value = objective(q[0])
        grads = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        flat = [g.reshape(-1).numpy() for g in grads[1:]]
        join = [
            numpy.concatenate(part) if part else numpy.zeros(0, numpy.float32)
            for part in (flat[:count], flat[count:])
        ]
        return Gradient(value.item(), grads[0].numpy(), *join)

    def unaryParameters(self) -> Array:
        """The parameters of the unary: energies, or a logistic unary's weights."""
        return self._own_unary().get()

    def setUnaryParameters(self, v: Array) -> None:
        """Sets them, in the shape that unaryParameters has."""
        unary = self._own_unary()
        unary.set(v)
        self.setUnary(unary)

    def labelCompatibilityParameters(self) -> Array:
        """The parameters of all compatibilities, one after the other."""
        return joined([term.compat.parameters for term in self._terms])

    def setLabelCompatibilityParameters(self, v: Array) -> None:
        """Sets them, in the order of labelCompatibilityParameters."""
        parts = split(v, [term.compat.parameters for term in self._terms])
        for term, part in zip(self._terms, parts, strict=True):
            term.compat.parameters = part

    def kernelParameters(self) -> Array:
        """The parameters of all kernels: scales of the features (DIAG), matrices row by row (FULL),
        nothing (CONST)."""
        return joined([term.kernel_parameters for term in self._terms])

    def setKernelParameters(self, v: Array) -> None:
        """Sets them, in the order of kernelParameters; the lattices are built anew."""
        parts = split(v, [term.kernel_parameters for term in self._terms])
        for term, part in zip(self._terms, parts, strict=True):
            term.set_kernel_parameters(part)

    @property
    def _logits(self) -> torch.Tensor:
        """Negative energies [1, L, P]; zero where none were given."""
        if self._given_logits is None:
            self._given_logits = torch.zeros(
                1, self._labels, self._variables, dtype=torch.float32, device="cpu"
            )
        return self._given_logits

    def _own_unary(self) -> Unary:
        """The unary; zero energies where none was set."""
        return ConstUnary(-self._logits[0].numpy()) if self._unary is None else self._unary

    def _mean_field(self, native: Any, composed: Any, n_iterations: int) -> torch.Tensor:
        """By one call of the native core, which takes up to MAX_KERNELS terms, or step by step."""
        run = native if len(self._terms) <= MAX_KERNELS else composed
        return run(self._logits, [t.kernel for t in self._terms], max(0, int(n_iterations)))

    def _step(self, q: torch.Tensor) -> torch.Tensor:
        refined = self._logits.clone()
        for term in self._terms:
            refined -= term.energies(q)
        return softmax(refined)

    def _as_q(self, Q: Array) -> torch.Tensor:
        Q = numpy.asarray(Q)
        expected = (self._labels, self._variables)
        if Q.shape != expected:
            raise ValueError(f"Q has shape {Q.shape}, expected {expected}")
        return as_tensor(Q, numpy.float32)[None]


class DenseCRF2D(DenseCRF):
    """A dense CRF over the pixels of an image.

    Args:
        w, h: width and height of the image in pixels, width first.
        nlabels: number of labels.

    Raises:
        ValueError: a number below 1. TypeError: one that is no integer.
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        self._width, self._height = as_count("w", w), as_count("h", h)
        super().__init__(self._width * self._height, nlabels)

    def addPairwiseGaussian(
        self,
        sxy: Any,
        compat: Any,
        kernel: KernelType = DIAG_KERNEL,
        normalization: NormalizationType = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Connects nearby pixels: neighbours prefer equal labels.

        Args:
            sxy: width in pixels, one number or (x, y).
            compat, kernel, normalization: as in addPairwiseEnergy.

        Raises:
            ValueError: widths that are not positive and finite; as addPairwiseEnergy.
        """
        widths, size = as_widths("sxy", sxy, 2), (self._height, self._width)
        sx, sy = widths.tolist()
        lattice = position_lattice(*size, (sx, sy), like=widths)

        def features() -> torch.Tensor:  # without self: a cycle would keep all memory for a while
            return positions(*size, widths, like=widths)

        self._add(features, compat, kernel, normalization, lattice)

    def addPairwiseBilateral(
        self,
        sxy: Any,
        srgb: Any,
        rgbim: Array,
        compat: Any,
        kernel: KernelType = DIAG_KERNEL,
        normalization: NormalizationType = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Connects nearby pixels of a similar colour.

        Args:
            sxy: width in pixels, one number or (x, y).
            srgb: width of the colours in 0..255, one number or (r, g, b).
            rgbim: uint8 [h, w, 3].
            compat, kernel, normalization: as in addPairwiseEnergy.

        Raises:
            ValueError: shape or dtype of the image; widths that are not positive and finite; as
                addPairwiseEnergy.
        """
        rgbim = numpy.asarray(rgbim)
        expected = (self._height, self._width, 3)
        if rgbim.ndim == 3 and rgbim.shape[2] != 3:
            raise ValueError(
                f"rgbim has {rgbim.shape[2]} channels, expected 3: for others, "
                "utils.create_pairwise_bilateral makes features for addPairwiseEnergy"
            )
        if rgbim.shape != expected:
            raise ValueError(
                f"Bad shape for pairwise bilateral (Need {expected}, got {rgbim.shape})"
            )
        if rgbim.dtype != numpy.uint8:
            raise ValueError(f"rgbim has dtype {rgbim.dtype}, expected uint8")
        widths = torch.cat([as_widths("sxy", sxy, 2), as_widths("srgb", srgb, 3)])
        image = copied(rgbim)  # learning asks for the features again
        lattice = Lattice.of_image(image, widths)
        self._add(lambda: image_features(image, widths), compat, kernel, normalization, lattice)


_process = os.getpid()  # that imported this module, or went on alone after a fork


def _keep_to_one_thread_after_fork() -> None:
    """OpenMP's threads do not survive a fork, and a child that calls them hangs: pools of
    processes, usual around pydensecrf, would hang. Once for each child, which may set another
    number then."""
    global _process
    if os.getpid() != _process:
        _process = os.getpid()
        torch.set_num_threads(1)


def _composed_labels(logits: torch.Tensor, kernels: list[Kernel], steps: int) -> torch.Tensor:
    return composition(logits, kernels, steps).argmax(1)
