"""The size and scale_factor arguments of F.interpolate."""

from __future__ import annotations

import math

import torch

from ..._checks import check_not_traced, size_pair

Pair = tuple[float | None, float | None]


def resolve_size(
    x: torch.Tensor,
    size: int | tuple[int, int] | None,
    scale_factor: float | tuple[float, float] | None,
) -> tuple[list[int], Pair]:
    """Height and width of the result, and the scale factors to sample with (None: from the sizes).

    Raises:
        ValueError: both or neither given, wrong count, factors not finite and positive.
        TypeError: size is not one integer or a pair.
    """
    if (size is None) == (scale_factor is None):
        raise ValueError("exactly one of size and scale_factor must be given")
    if size is not None:
        return size_pair(size), (None, None)
    check_not_traced("scale_factor times the input's size")
    factors = list(scale_factor) if isinstance(scale_factor, (tuple, list)) else [scale_factor] * 2
    if len(factors) != 2:
        raise ValueError(f"scale_factor has {len(factors)} numbers, expected 1 or 2")
    if x.dim() != 4:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected 4 dimensions [N, C, H, W]")
    height, width = (float(f) for f in factors)  # type: ignore[arg-type]
    for factor in (height, width):
        if not 0.0 < factor < math.inf:
            raise ValueError(f"scale_factor is {scale_factor!r}, expected finite and positive")
    target = [torch.sym_int(x.shape[2] * height), torch.sym_int(x.shape[3] * width)]
    return target, (height, width)
