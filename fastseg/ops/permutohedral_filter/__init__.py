"""High-dimensional Gaussian filtering on the permutohedral lattice."""

from __future__ import annotations

import torch

from .lattice import Lattice
from .op import permutohedral_filter_op

__all__ = ["Lattice", "permutohedral_filter"]


def permutohedral_filter(
    values: torch.Tensor, features: torch.Tensor, transpose: bool = False
) -> torch.Tensor:
    """Sums values over all pixels, weighted by the distance of their features.

    Approximately

        K = torch.exp(-torch.cdist(features.mT, features.mT) ** 2 / 2)  # [N, P, P]
        values @ K.mT

    in time and memory proportional to P. Values are spread onto the corners of the lattice simplex
    around each pixel's features, blurred along the lattice's axes, and read back with the same
    weights. The sum comes out smaller than the exact one by a factor that hardly varies (about 0.8
    for D = 2, 0.5 for D = 5); dividing by the filter of ones removes it. Deterministic.

    The numbers are those of pydensecrf's filter, with its peculiarities: only vertices that a pixel
    touches exist, so the operator is not quite symmetric; if P is not a multiple of 4, the vertices
    around the origin exist too.

    Each call builds the lattice anew: to filter several times, build a Lattice.

    Args:
        values: what is summed [N, L, P]; float32, bfloat16, float16 or float64; any strides.
        features: position of each pixel in units of the kernel's width [N, D, P] or [1, D, P], D of
            at least 1, in the dtype of values. Fastest for D up to 8 and numbers below some
            thousands; beyond about 6e7 they are too large.
        transpose: applies the transposed operator instead (the axes blurred in reverse order).

    Returns:
        Filtered values [N, L, P], in the dtype of values, computed in float32 (float64 for
        float64). Differentiable in values and in features; the gradient to features is that at a
        fixed choice of simplices (the function jumps where a pixel's simplex changes).

    Raises:
        ValueError: wrong shapes or devices; features that are not finite or too large.
        TypeError: dtypes.
        NotImplementedError: on a gradient of the gradient.

    Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
    2010; as used by Kraehenbuehl and Koltun, "Efficient Inference in Fully Connected CRFs with
    Gaussian Edge Potentials", 2011.
    """
    return permutohedral_filter_op(values, features, transpose)
