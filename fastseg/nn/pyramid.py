"""Pyramid pooling, and a convolution of its result that never builds it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layout import map_format
from ..ops.pyramid_pool import pyramid_pool
from ..ops.upsample_bilinear import upsample_bilinear
from .norm import NormName, check_batch, make_norm
from .pyramid_conv import pyramid_conv2d


class PoolingBranch(nn.Module):
    """1x1 convolution, norm and ReLU of the averages over one grid of cells."""

    def __init__(self, in_channels: int, channels: int, bins: int, use_norm: NormName) -> None:
        super().__init__()
        norm = make_norm(use_norm, channels)
        bias = isinstance(norm, nn.Identity)
        self.pool: Any = nn.Sequential(
            nn.AdaptiveAvgPool2d(bins),
            nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=bias), norm, nn.ReLU(inplace=True)
            ),
        )

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        """Averages [N, in_channels, bins, bins] -> [N, channels, bins, bins]."""
        _, layers = self.pool
        if cells.shape[2] == 1:
            check_batch(layers[1], cells)
        return layers(cells)


class PyramidPooling(nn.Module):
    """A map beside its averages over several grids, each convolved and upsampled back.

    Args:
        in_channels: of the map.
        channels: of each grid's branch.
        bins: cells per side of each grid.
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
        self.bins = tuple(bins)
        self.input_first = input_first
        self.align_corners = align_corners
        self.out_channels = in_channels + len(self.bins) * channels
        self.blocks = nn.ModuleList(
            PoolingBranch(
                in_channels, channels, b, use_norm if b > 1 or norm_of_one else "identity"
            )
            for b in self.bins
        )

    def cells(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Map [N, in_channels, H, W] -> the branches before upsampling [N, channels, b, b]."""
        if max(self.bins) <= min(x.shape[2], x.shape[3]):
            pooled = pyramid_pool(x, self.bins).split([b * b for b in self.bins], dim=2)
            averages = [p.unflatten(2, (b, b)) for p, b in zip(pooled, self.bins, strict=True)]
        else:  # grids finer than the map: its pixels are repeated
            averages = [F.adaptive_avg_pool2d(x, b) for b in self.bins]
        return [block(a) for block, a in zip(self.blocks, averages, strict=True)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H, W]."""
        size, layout = (x.shape[2], x.shape[3]), map_format(x)
        branches = [
            upsample_bilinear(
                c.contiguous(memory_format=layout), size, align_corners=self.align_corners
            )
            for c in self.cells(x)
        ]
        return torch.cat([x, *branches] if self.input_first else [*branches, x], dim=1)

    def convolve(self, x: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
        """convolution(self(x)), without the concatenated map: see `pyramid_conv2d`.

        Args:
            x: map [N, in_channels, H, W].
            convolution: of out_channels to any number of channels; odd square kernel, padded by
                half of it, stride 1, not dilated, without groups.
        """
        return pyramid_conv2d(
            x,
            self.cells(x),
            convolution.weight,
            convolution.bias,
            input_first=self.input_first,
            align_corners=self.align_corners,
        )
