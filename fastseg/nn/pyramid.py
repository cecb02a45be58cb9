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
        """convolution(self(x)), without the concatenated map.

        A convolution of a concatenation is the sum of the convolutions of its parts. That of an
        upsampled grid is linear in its few cells: each cell's value times each tap of the kernel,
        spread over the map by the same weights for all channels and images. So the branches cost
        one small matrix product instead of as many multiplications as the map itself.

        Args:
            x: map [N, in_channels, H, W].
            convolution: of out_channels to any number of channels; odd square kernel, padded by
                half of it, stride 1, not dilated, without groups.
        """
        cells = self.cells(x)
        channels = cells[0].shape[1]
        weights = list(
            convolution.weight.split(
                [x.shape[1], *[channels] * len(cells)]
                if self.input_first
                else [*[channels] * len(cells), x.shape[1]],
                dim=1,
            )
        )
        map_weight = weights.pop(0 if self.input_first else -1)
        out = F.conv2d(x, map_weight, convolution.bias, padding=convolution.padding)
        with torch.no_grad():
            spread = torch.cat([self._spread(b, convolution, out) for b in self.bins], dim=1)
        # [N, cells and taps, channels of the result], in the order of `spread`'s columns.
        table = torch.cat(
            [
                (c.flatten(2).mT @ w.flatten(2).permute(1, 2, 0).flatten(1)).view(
                    c.shape[0], -1, w.shape[0]
                )
                for c, w in zip(cells, weights, strict=True)
            ],
            dim=1,
        ).to(out.dtype)
        batch = out.shape[0]
        if map_format(out) is torch.channels_last:
            flat = out.permute(0, 2, 3, 1).flatten(1, 2)
            added = torch.baddbmm(flat, spread.expand(batch, -1, -1), table)
            return added.unflatten(1, out.shape[2:]).permute(0, 3, 1, 2)
        added = torch.baddbmm(out.flatten(2), table.mT, spread.mT.expand(batch, -1, -1))
        return added.unflatten(2, out.shape[2:])

    def _spread(self, b: int, convolution: nn.Conv2d, out: torch.Tensor) -> torch.Tensor:
        """What each pixel takes of each cell and tap: [H * W, b * b * taps]."""
        # Weights in full precision, rounded once.
        dtype = torch.promote_types(out.dtype, torch.float32)
        one_hot = torch.eye(b * b, device=out.device, dtype=dtype)
        size = (out.shape[2], out.shape[3])
        maps = upsample_bilinear(
            one_hot.view(1, b * b, b, b), size, align_corners=self.align_corners
        )
        kernel = convolution.kernel_size[0]
        # For each tap the map shifted by it, zero outside.
        shifted = F.unfold(maps.transpose(0, 1), kernel, padding=kernel // 2)
        return shifted.flatten(0, 1).T.to(out.dtype)
