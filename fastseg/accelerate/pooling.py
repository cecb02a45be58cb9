"""Averages over grids of several sizes, read from the modules that make them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..nn.pyramid_conv import pyramid_conv2d
from ..ops.pyramid_pool import pyramid_pool
from .chains import run_after


def run_pooled(
    x: torch.Tensor,
    branches: Iterable[Any],
    layers: Iterable[nn.Module],
    input_first: bool,
    align_corners: bool,
) -> torch.Tensor:
    """Layers, of which the first is a convolution, on a map beside its upsampled averages.

    Args:
        branches: pairs of an nn.AdaptiveAvgPool2d and what follows on its cells.
        input_first: concatenated as [x, branches] or [branches, x].
    """
    pools, followers = zip(*branches, strict=True)
    cells = [f(a) for f, a in zip(followers, averages(x, pools), strict=True)]

    def convolve(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return pyramid_conv2d(
            x, cells, weight, bias, input_first=input_first, align_corners=align_corners
        )

    return run_after(convolve, layers)


def averages(x: torch.Tensor, pools: Iterable[Any]) -> list[torch.Tensor]:
    """What each of some nn.AdaptiveAvgPool2d makes of x: maps [N, C, b, b]."""
    bins = [_bin(pool) for pool in pools]
    if max(bins) > min(x.shape[2], x.shape[3]):  # grids finer than the map
        return [F.adaptive_avg_pool2d(x, b) for b in bins]
    pooled = pyramid_pool(x, bins).split([b * b for b in bins], dim=2)
    return [p.unflatten(2, (b, b)) for p, b in zip(pooled, bins, strict=True)]


def unusual_pools(pools: Iterable[Any]) -> str | None:
    """Why `averages` cannot take the place of some modules, or None."""
    for pool in pools:
        if type(pool) is not nn.AdaptiveAvgPool2d or not isinstance(_bin(pool), int):
            return f"{pool} does not pool to a square grid"
    return None


def _bin(pool: Any) -> Any:
    size = pool.output_size
    if isinstance(size, tuple):
        return size[0] if size[0] == size[-1] else None
    return size
