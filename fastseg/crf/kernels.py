"""The pairwise terms of a dense CRF: the pixels they connect and the energies they add."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn

from .features import bilateral_features, spatial_features
from .filters import NORMALIZATIONS, Normalization
from .fixed_order import in_units, mixed, weighted

Compatibility = Sequence[float] | Sequence[Sequence[float]] | torch.Tensor | None


@dataclasses.dataclass
class Guide:
    """The inputs of the kernels.

    Attributes:
        scores: [N, L, H, W]: their shape, dtype and device.
        images: [N, C, H, W] or None.
        features: further features [N, D, H, W]. DenseCRF has those of all its FeatureKernels, in
            their order; a kernel sees only its own.
    """

    scores: torch.Tensor
    images: torch.Tensor | None
    features: Sequence[torch.Tensor]

    def seen_by(self, kernels: Sequence[PairwiseKernel]) -> list[tuple[PairwiseKernel, Guide]]:
        """Pairs each kernel with its own inputs."""
        own = iter(self.features)
        return [
            (kernel, dataclasses.replace(self, features=[next(own)] if needs_features else []))
            for kernel in kernels
            for needs_features in [isinstance(kernel, FeatureKernel)]
        ]


class PairwiseKernel(nn.Module):
    """A Gaussian kernel over features of the pixels, and the energies that it adds.

    The term adds weight * mu(F Q) to the energies, F the normalised filter. mu is -Q without a
    `compatibility` (Potts: neighbours want the same label), v[l] * Q[l] with a vector v [L], and
    M @ Q with a matrix M [L, L], row: the label that is charged. Vector and matrix act with their
    own sign, as in pydensecrf: positive numbers on the diagonal repel.

    Args:
        widths: standard deviation of each feature, in its units; positive and finite.
        weight: factor of the energies; finite.
        compatibility: None for the Potts model, a vector [L] or a matrix [L, L].
        normalization: "symmetric", "before", "after" or "none", as in pydensecrf.

    Parameters (nn.Parameter): `weight` (), `compatibility` [L] or [L, L] or None, and `log_scales`:
    widths are the initial ones times exp(log_scales), so that they stay positive. log_scales
    is frozen at first, as its gradient needs the lattice built at every step;
    kernel.log_scales.requires_grad_() trains it.

    Raises:
        ValueError: widths that are not positive and finite, a compatibility that is neither a
            vector nor a square matrix, an unknown normalisation.
        TypeError: a width or weight that is no number.
    """

    def __init__(
        self,
        widths: Sequence[float],
        weight: float,
        compatibility: Compatibility,
        normalization: Normalization,
    ) -> None:
        super().__init__()
        try:
            widths, weight = [float(w) for w in widths], float(weight)
        except (TypeError, ValueError):
            raise TypeError(
                f"widths are {widths!r}, weight is {weight!r}: expected numbers, one for each width"
            ) from None
        if len(widths) == 0 or not all(math.isfinite(w) and w > 0 for w in widths):
            raise ValueError(f"widths are {widths}, expected positive and finite ones")
        if not math.isfinite(weight):
            raise ValueError(f"weight is {weight}, expected a finite number")
        if normalization not in NORMALIZATIONS:
            allowed = ", ".join(map(repr, NORMALIZATIONS))
            raise ValueError(f"normalization is {normalization!r}, allowed are {allowed}")
        self.normalization: Normalization = normalization
        self.initial_widths: torch.Tensor
        self.weight = nn.Parameter(torch.tensor(weight))
        self.register_buffer("initial_widths", torch.tensor(widths))
        self.log_scales = nn.Parameter(torch.zeros(len(widths)), requires_grad=False)
        self.compatibility = (
            None if compatibility is None else nn.Parameter(_as_compatibility(compatibility))
        )

    @property
    def widths(self) -> torch.Tensor:
        """The widths of the features, in the units of the image."""
        return self.initial_widths * self.log_scales.exp()

    @property
    def attraction(self) -> torch.Tensor:
        """-weight * mu as a number (), a vector [L] or a matrix [L, L]: what it multiplies with the
        filtered probabilities is added to the scores."""
        return self.weight if self.compatibility is None else -self.weight * self.compatibility

    def check_parameters(self) -> None:
        """The parameters are numbers, and the widths positive: training may have left others.

        Raises:
            ValueError: they are not.
        """
        if torch.compiler.is_compiling():
            return
        named = {"weight": self.weight, "compatibility": self.compatibility, "widths": self.widths}
        for name, value in named.items():
            if value is not None and not bool(value.isfinite().all()):
                raise ValueError(
                    f"{name} of a {type(self).__name__} has numbers that are not finite"
                )
        if not bool((self.widths > 0).all()):
            raise ValueError(f"widths of a {type(self).__name__} are {self.widths.tolist()}")

    def message(self, filtered: torch.Tensor) -> torch.Tensor:
        """-weight * mu(filtered) [N, L, P]: what the term adds to the scores of the labels."""
        a = self.attraction.to(filtered.dtype)
        if a.dim() == 2:
            return mixed(a, filtered)
        return a[:, None] * filtered if a.dim() == 1 else weighted(a, filtered)

    def features(self, guide: Guide) -> torch.Tensor:
        """[N, D, H * W] in units of the widths."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        widths = ", ".join(f"{w:g}" for w in self.widths.tolist())
        return f"widths=({widths}), weight={self.weight.item():g}, {self.normalization}"


class GaussianKernel(PairwiseKernel):
    """Smoothness: nearby pixels are neighbours.

    Args:
        width: standard deviation of the Gaussian, in pixels.
        weight, compatibility, normalization: as for PairwiseKernel.

    Source: Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian
    Edge Potentials", 2011, equation 3.
    """

    def __init__(
        self,
        width: float = 3.0,
        weight: float = 3.0,
        compatibility: Compatibility = None,
        normalization: Normalization = "symmetric",
    ) -> None:
        super().__init__([width], weight, compatibility, normalization)

    def features(self, guide: Guide) -> torch.Tensor:
        """[N, 2, H * W]."""
        batch, (height, width) = guide.scores.shape[0], guide.scores.shape[2:]
        return spatial_features(batch, height, width, self.widths, like=guide.scores)


class BilateralKernel(PairwiseKernel):
    """Appearance: nearby pixels of a similar colour are neighbours.

    Args:
        width: standard deviation of the positions, in pixels.
        color_width: standard deviation of the colours, in units of the images; the default is for
            images in 0..255.
        weight, compatibility, normalization: as for PairwiseKernel.

    Source: Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian
    Edge Potentials", 2011, equation 3.
    """

    def __init__(
        self,
        width: float = 80.0,
        color_width: float = 13.0,
        weight: float = 10.0,
        compatibility: Compatibility = None,
        normalization: Normalization = "symmetric",
    ) -> None:
        super().__init__([width, color_width], weight, compatibility, normalization)

    def features(self, guide: Guide) -> torch.Tensor:
        """[N, 2 + C, H * W]."""
        if guide.images is None:
            raise ValueError("images are missing: there is a BilateralKernel")
        place, color = self.widths
        return bilateral_features(guide.images, place, color, like=guide.scores)


class FeatureKernel(PairwiseKernel):
    """Pixels with similar features are neighbours; DenseCRF's forward takes the features.

    Positions are not added: put them among the features to make the kernel local.

    Args:
        widths: standard deviation of each feature, in its units.
        weight, compatibility, normalization: as for PairwiseKernel.
    """

    def __init__(
        self,
        widths: Sequence[float],
        weight: float = 1.0,
        compatibility: Compatibility = None,
        normalization: Normalization = "symmetric",
    ) -> None:
        super().__init__(widths, weight, compatibility, normalization)

    def features(self, guide: Guide) -> torch.Tensor:
        """[N, D, H * W]."""
        (given,), like = guide.features, guide.scores
        widths = self.widths.to(like.dtype)
        if given.shape[1] != len(widths):
            raise ValueError(
                f"features have shape {tuple(given.shape)}, expected D = {len(widths)} as widths"
            )
        return in_units(given.to(like.device, like.dtype), widths)


def _as_compatibility(compatibility: Compatibility) -> torch.Tensor:
    mu = torch.as_tensor(compatibility, dtype=torch.get_default_dtype()).detach().clone()
    if mu.dim() not in (1, 2) or mu.numel() == 0 or mu.shape[0] != mu.shape[-1]:
        raise ValueError(
            f"compatibility has shape {tuple(mu.shape)}, expected [L] or [L, L]: "
            "a single number is the weight"
        )
    if not bool(mu.isfinite().all()):
        raise ValueError("compatibility has numbers that are not finite")
    return mu
