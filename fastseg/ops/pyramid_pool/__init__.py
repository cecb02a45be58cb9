"""Average pooling onto several grids in one pass (the pyramid of PSPNet)."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch

from ..._checks import is_integer
from .op import pyramid_pool_op

__all__ = ["pyramid_pool"]


def pyramid_pool(x: torch.Tensor, bins: Sequence[int]) -> torch.Tensor:
    """Averages a map over the cells of several square grids, reading it once for all of them.

    The same function as torch.cat([F.adaptive_avg_pool2d(x, b).flatten(2) for b in bins], 2): cell
    i of b covers the rows (columns) floor(i * H / b) up to ceil((i + 1) * H / b), so neighbours
    share one where b does not divide H. Sums are in float32 (float64 for float64); the gradient is
    deterministic, written once, and has the memory format of x.

    Args:
        x: map [N, C, H, W]; float32, bfloat16, float16 or float64; N may be 0.
        bins: cells per side of each grid, at least one grid; each 1 <= b <= min(H, W).

    Returns:
        Cells [N, C, sum(b * b)], grid after grid and row-major, same dtype as x: contiguous, or
        for x in channels_last with the channels of a cell side by side in memory.

    Raises:
        ValueError: x is not [N, C, H, W] with C, H, W >= 1; bins is empty or does not fit the map.
        TypeError: dtype of x; bins is not a sequence of integers.
    """
    try:
        # Looked at first: Dynamo of PyTorch 2.11 has no exception for operator.index of a float.
        if not all(is_integer(b) for b in bins):
            raise TypeError
        sizes = [operator.index(b) for b in bins]
    except TypeError:
        raise TypeError(f"bins is {bins!r}, expected a sequence of integers") from None
    return pyramid_pool_op(x, sizes)
