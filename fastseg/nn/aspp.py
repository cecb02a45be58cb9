"""Atrous spatial pyramid pooling, with the pooled branch as a bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.pyramid_pool import pyramid_pool
from .branches import run_branches
from .chain import Chain
from .norm import check_batch
from .pyramid_conv import pyramid_conv2d
from .separable import SeparableConv2d


class ImagePooling(nn.Sequential):
    """Mean over the image, 1x1 convolution, batch norm, ReLU: one vector per image."""

    chains = (("1", "2", "3"),)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, out_channels, 1, 1]."""
        _, convolution, norm, relu = self
        check_batch(norm, x)
        pooled = pyramid_pool(x, (1,)).unsqueeze(-1)
        return relu(norm(convolution(pooled)))


class ASPP(nn.Module):
    """A 1x1 branch, three dilated 3x3 branches and image pooling, projected to `out_channels`.

    The pooled branch has the same value at every position. Its share of the projection is computed
    once per image and added as a bias: it never becomes a map.

    Args:
        rates: dilations of the three 3x3 branches.
        separable: depthwise and pointwise convolutions instead of dense ones.
        dropout: probability, after the projection.
        pooled_first: the pooled branch comes first in what is projected (mmseg), not last.
        project_kernel: 1, or 3 (mmseg).
        separable_norm: batch norm and ReLU between the depthwise and the pointwise convolution.

    Raises:
        ValueError: rates are not three; one image in training mode (in forward).

    Source: Chen et al., Rethinking Atrous Convolution, 2017, section 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        rates: Sequence[int] = (12, 24, 36),
        separable: bool = False,
        dropout: float = 0.5,
        pooled_first: bool = False,
        project_kernel: int = 1,
        separable_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pooled_first = pooled_first
        if len(tuple(rates)) != 3:
            raise ValueError(f"rates is {tuple(rates)}, expected three dilations")
        branches: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 1, bias=False)]
        for rate in rates:
            branches.append(
                SeparableConv2d(in_channels, out_channels, rate, separable_norm)
                if separable
                else nn.Conv2d(
                    in_channels, out_channels, 3, padding=rate, dilation=rate, bias=False
                )
            )
        self.convs = nn.ModuleList(
            Chain(branch, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
            for branch in branches
        )
        self.convs.append(ImagePooling(in_channels, out_channels))
        self.project: Any = nn.Sequential(
            nn.Conv2d(
                5 * out_channels,
                out_channels,
                project_kernel,
                padding=project_kernel // 2,
                bias=False,
            ),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H, W]."""
        *branches, pooling = self.convs
        pooled = pooling(x)
        maps = run_branches(x, branches)
        projection, norm, relu, dropout = self.project
        if self.pooled_first or projection.kernel_size != (1, 1):
            # The pooled branch is a grid of one cell.
            y = pyramid_conv2d(
                maps,
                [pooled],
                projection.weight,
                projection.bias,
                input_first=not self.pooled_first,
            )
            return dropout(relu(norm(y)))
        map_weight, pooled_weight = projection.weight.split([maps.shape[1], pooled.shape[1]], dim=1)
        y = F.conv2d(maps, map_weight) + F.conv2d(pooled, pooled_weight, projection.bias)
        return dropout(relu(norm(y)))
