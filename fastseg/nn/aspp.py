"""Atrous spatial pyramid pooling, with the pooled branch as a bias."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.pyramid_pool import pyramid_pool
from .altered import original_class, why_not_short
from .branches import run_branches
from .chain import Chain, is_sequence, run, run_after
from .norm import check_batch
from .pyramid_conv import pyramid_conv2d
from .resized import keeps_the_map
from .separable import SeparableConv2d

# Ours, torchvision's and smp's: a mean over the image and layers on it, spread over the map.
_POOLINGS = ("ImagePooling", "ASPPPooling")


class ImagePooling(nn.Sequential):
    """Mean over the image, 1x1 convolution, batch norm, ReLU: one vector per image, everywhere.

    `ASPP` computes the vector and leaves out the map.
    """

    chains = (("1", "2", "3"),)

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H, W], the same at every pixel."""
        return super().forward(x).expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    """A 1x1 branch, three dilated 3x3 branches and image pooling, projected to `out_channels`.

    The pooled branch has the same value at every position. Its share of the projection is computed
    once per image and added as a bias: it never becomes a map.

    Args:
        in_channels: of the map.
        out_channels: of every branch and of the projection.
        rates: dilations of the three 3x3 branches.
        separable: depthwise and pointwise convolutions instead of dense ones.
        dropout: probability, after the projection.
        pooled_first: the pooled branch comes first in what is projected (mmseg), not last.
        project_kernel: 1, or 3 (mmseg).
        separable_norm: batch norm and ReLU between the depthwise and the pointwise convolution.

    Raises:
        ValueError: rates are not three of at least 1; one image in training mode (in forward).

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
        if len(tuple(rates)) != 3 or min(rates) < 1:
            raise ValueError(f"rates is {tuple(rates)}, expected three dilations of at least 1")
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
        pooling: Any = self.convs[-1]
        if isinstance(pooling, ImagePooling) and len(pooling) == 4:
            check_batch(pooling[2], x)
        if why_not_short(self, aspp_skips, aspp_unfit) is None:
            return run_aspp(self, x)
        maps = [branch(x) for branch in self.convs]
        return self.project(torch.cat(maps[-1:] + maps[:-1] if self.pooled_first else maps, dim=1))


def run_aspp(aspp: Any, x: torch.Tensor) -> torch.Tensor:
    """Runs an ASPP of fastseg, torchvision or smp with its pooled branch as a bias.

    Args:
        aspp: has the branches as `convs`, the pooled one last, and their projection as `project`.
            `why_not_short` of it with `aspp_skips` and `aspp_unfit` is None.
        x: map [N, C, H, W].

    Returns:
        Map [N, C_out, H, W].
    """
    *branches, (_, *layers) = aspp.convs
    pooled = run(pyramid_pool(x, (1,)).unsqueeze(-1), *layers)
    maps = run_branches(x, branches)
    pooled_first = getattr(aspp, "pooled_first", False)

    def project(weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if pooled_first or weight.shape[2:] != (1, 1):
            # The pooled branch is a grid of one cell.
            return pyramid_conv2d(maps, [pooled], weight, bias, input_first=not pooled_first)
        map_weight, pooled_weight = weight.split([maps.shape[1], pooled.shape[1]], dim=1)
        return F.conv2d(maps, map_weight) + F.conv2d(pooled, pooled_weight, bias)

    return run_after(project, aspp.project)


def aspp_skips(aspp: Any) -> Iterable[nn.Module]:
    """The modules that `run_aspp` does not call."""
    return aspp.convs[-1], aspp.convs[-1][0], aspp.project, aspp.project[0]


def aspp_unfit(aspp: Any) -> str | None:
    """Why `run_aspp` cannot run an ASPP, or None."""
    pooling, projection = aspp.convs[-1], aspp.project[0]
    pool = pooling[0]
    if original_class(pooling).__name__ not in _POOLINGS:
        return f"its last branch is a {original_class(pooling).__name__}"
    if type(pool) is not nn.AdaptiveAvgPool2d or pool.output_size not in (1, (1, 1)):
        return "its last branch does not pool to one pixel"
    if not is_sequence(aspp.project):
        return f"its projection is a {original_class(aspp.project).__name__}"
    rows, columns = projection.kernel_size
    if rows != columns or rows % 2 == 0:
        return f"its projection has a kernel of {rows} x {columns}"
    return keeps_the_map(projection)
