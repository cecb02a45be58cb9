"""Pyramid pooling, and a convolution of its result that never builds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layout import in_format, map_format
from ..ops.pyramid_pool import pyramid_pool
from ..ops.upsample_bilinear import upsample_bilinear
from .altered import original_class, why_not_short
from .chain import is_sequence, run_after
from .norm import NormName, check_batch, make_norm
from .pyramid_conv import pyramid_conv2d
from .resized import keeps_the_map

MOST_BINS = 256  # a config.json that asks for 4000 would take gigabytes


class PoolingBranch(nn.Module):
    """1x1 convolution, norm and ReLU of the averages over one grid of cells, upsampled."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        bins: int,
        use_norm: NormName,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        norm = make_norm(use_norm, channels)
        bias = isinstance(norm, nn.Identity)
        self.align_corners = align_corners
        self.pool: Any = nn.Sequential(
            nn.AdaptiveAvgPool2d(bins),
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=bias), norm, nn.ReLU(inplace=True)
            ),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, channels, H, W]."""
        size = (x.shape[2], x.shape[3])
        cells = in_format(self.pool(x), map_format(x))
        return upsample_bilinear(cells, size, align_corners=self.align_corners)


class PyramidPooling(nn.Module):
    """A map beside its averages over several grids, each convolved and upsampled back.

    Args:
        in_channels: of the map.
        channels: of each grid's branch.
        bins: cells per side of each grid, 1 to 256.
        use_norm: as in `make_norm`.
        norm_of_one: whether the branch of one cell has the norm too (semseg, mmseg) or a bias
            instead (smp).
        input_first: concatenated as [x, branches] (semseg, mmseg) or [branches, x] (smp).
        align_corners: of the upsampling.

    Source: Zhao et al., Pyramid Scene Parsing Network, 2017, section 3.2.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        use_norm: NormName = "batchnorm",
        norm_of_one: bool = True,
        input_first: bool = True,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1 or max(bins) > MOST_BINS:
            raise ValueError(
                f"bins is {tuple(bins)}, expected grids of 1 to {MOST_BINS} cells per side"
            )
        self.bins = tuple(bins)
        self.input_first = input_first
        self.align_corners = align_corners
        self.out_channels = in_channels + len(self.bins) * channels
        self.blocks = nn.ModuleList(
            PoolingBranch(
                in_channels,
                channels,
                b,
                use_norm if b > 1 or norm_of_one else "identity",
                align_corners,
            )
            for b in self.bins
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H, W]."""
        self._check_batch(x)
        if why_not_short(self, pyramid_skips, pyramid_unfit) is None:
            size, layout = (x.shape[2], x.shape[3]), map_format(x)
            branches = [
                upsample_bilinear(in_format(c, layout), size, align_corners=self.align_corners)
                for c in pooled_cells(x, self._pools())
            ]
        else:
            branches = [block(x) for block in self.blocks]
        return torch.cat([x, *branches] if self.input_first else [*branches, x], dim=1)

    def run(self, x: torch.Tensor, layers: Iterable[nn.Module]) -> torch.Tensor:
        """Runs layers on self(x), without building the concatenated map; see `run_pooled`.

        Args:
            x: map [N, in_channels, H, W].
            layers: begin with a convolution; `pyramid_convolution` of them is None.
        """
        self._check_batch(x)
        return run_pooled(x, self._pools(), layers, self.input_first, self.align_corners)

    def _pools(self) -> list[Any]:
        blocks: Any = self.blocks
        return [block.pool for block in blocks]

    def _check_batch(self, x: torch.Tensor) -> None:
        for pool in (getattr(block, "pool", None) for block in self.blocks):
            if isinstance(pool, nn.Sequential) and isinstance(pool[-1], nn.Sequential):
                if bin_of(pool[0]) == 1:
                    check_batch(pool[-1][1], x)


def run_pooled(
    x: torch.Tensor,
    branches: Iterable[Any],
    layers: Iterable[nn.Module],
    input_first: bool,
    align_corners: bool,
) -> torch.Tensor:
    """Runs layers that begin with a convolution on a map beside its upsampled averages.

    Args:
        x: map [N, C, H, W].
        branches: pairs of an nn.AdaptiveAvgPool2d, for which `unusual_pools` is None, and the
            layers on its cells.
        layers: begin with a convolution; `pyramid_convolution` of them is None.
        input_first: concatenated as [x, branches] or [branches, x].
        align_corners: of the upsampling.

    Returns:
        Map [N, C_out, H, W].
    """
    cells = pooled_cells(x, branches)

    def convolve(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return pyramid_conv2d(
            x, cells, weight, bias, input_first=input_first, align_corners=align_corners
        )

    return run_after(convolve, layers)


def pooled_cells(x: torch.Tensor, branches: Iterable[Any]) -> list[torch.Tensor]:
    """The outputs of `run_pooled`'s branches, not yet upsampled: [N, C_i, b, b]."""
    pools, followers = zip(*branches, strict=True)
    return [f(a) for f, a in zip(followers, averages(x, pools), strict=True)]


def averages(x: torch.Tensor, pools: Iterable[Any]) -> list[torch.Tensor]:
    """The outputs of several nn.AdaptiveAvgPool2d for x [N, C, H, W]: maps [N, C, b, b]."""
    bins = [bin_of(pool) for pool in pools]
    if max(bins) > min(x.shape[2], x.shape[3]):  # grids finer than the map: its pixels repeat
        return [F.adaptive_avg_pool2d(x, b) for b in bins]
    pooled = pyramid_pool(x, bins).split([b * b for b in bins], dim=2)
    return [p.unflatten(2, (b, b)) for p, b in zip(pooled, bins, strict=True)]


def unusual_pools(pools: Iterable[Any]) -> str | None:
    """Why `averages` cannot replace these modules, or None."""
    for pool in pools:
        if type(pool) is not nn.AdaptiveAvgPool2d or not isinstance(bin_of(pool), int):
            return f"{pool} does not pool to a square grid"
    return None


def unusual_branches(branches: Iterable[Any]) -> str | None:
    """Why `run_pooled` cannot replace these sequences, or None."""
    for branch in branches:
        if not isinstance(branch, list | nn.ModuleList) and not is_sequence(branch):
            return f"a {original_class(branch).__name__} is inside"
        if len(branch) != 2:
            return f"a branch has {len(branch)} layers"
        if why := unusual_pools([branch[0]]):
            return why
    return None


def bin_of(pool: Any) -> Any:
    """Cells per side of an nn.AdaptiveAvgPool2d; None if its grid is not square."""
    size = getattr(pool, "output_size", None)
    if isinstance(size, tuple):
        return size[0] if size[0] == size[-1] else None
    return size


def pyramid_convolution(layers: Any) -> str | None:
    """Why `run_pooled` cannot run a sequence of layers, or None."""
    if not is_sequence(layers) or not isinstance(layers[0], nn.Conv2d):
        return f"a {original_class(layers).__name__} does not begin with a convolution"
    rows, columns = layers[0].kernel_size
    if rows != columns or rows % 2 == 0:
        return f"{layers[0]} has no odd square kernel"
    return keeps_the_map(layers[0])


def pyramid_skips(pyramid: Any) -> Iterable[nn.Module]:
    """The modules inside a PyramidPooling that `pooled_cells` does not call."""
    blocks = list(pyramid.blocks)
    pools = [block.pool for block in blocks]
    return *blocks, *pools, *(pool[0] for pool in pools)


def pyramid_unfit(pyramid: Any) -> str | None:
    """Why the blocks of a PyramidPooling cannot be passed over, or None."""
    for block in pyramid.blocks:
        if type(block) is not PoolingBranch or not is_sequence(block.pool) or len(block.pool) != 2:
            return f"a {original_class(block).__name__} is inside"
    return unusual_pools(block.pool[0] for block in pyramid.blocks)
