"""UPerNet's two pyramids, without their resized and concatenated maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.upsample_bilinear import upsample_bilinear
from .altered import why_not_short
from .norm import NormName, check_batch
from .pyramid import MOST_BINS, bin_of, run_pooled, unusual_branches
from .resized import begins_with, run_resized
from .unet import conv_norm_relu


class LayerNorm2d(nn.LayerNorm):
    """Layer norm of the channels at every pixel of a map."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] -> map [N, C, H, W] in channels_last."""
        tokens = x.permute(0, 2, 3, 1).contiguous()
        normed = F.layer_norm(tokens, self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class PooledPyramid(nn.Module):
    """A map beside its averages over several grids, then a 3x3 convolution, batch norm and ReLU.

    Args:
        in_channels: of the map.
        channels: of each grid's branch, and of the result.
        bins: cells per side of each grid, 1 to 256.
        use_norm: of the branches, as in `make_norm`.
    """

    def __init__(
        self, in_channels: int, channels: int, bins: Sequence[int], use_norm: NormName
    ) -> None:
        super().__init__()
        if not bins or min(bins) < 1 or max(bins) > MOST_BINS:
            raise ValueError(
                f"bins is {tuple(bins)}, expected grids of 1 to {MOST_BINS} cells per side"
            )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(cells), conv_norm_relu(in_channels, channels, use_norm, 1)
            )
            for cells in bins
        )
        self.out_conv: Any = conv_norm_relu(in_channels + len(bins) * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, channels, H, W]."""
        for block in self.blocks:
            if isinstance(block, nn.Sequential) and isinstance(block[-1], nn.Sequential):
                if bin_of(block[0]) == 1:
                    check_batch(block[-1][1], x)
        if why_not_short(self, _pyramid_skips, _pyramid_unfit) is None:
            return run_pooled(x, self.blocks, self.out_conv, True, False)
        size = (x.shape[2], x.shape[3])
        return self.out_conv(torch.cat([x, *(_resized(b(x), size) for b in self.blocks)], 1))


def _pyramid_skips(pyramid: Any) -> Iterable[nn.Module]:
    pools = [block[0] for block in pyramid.blocks]
    return *pyramid.blocks, *pools, pyramid.out_conv, pyramid.out_conv[0]


def _pyramid_unfit(pyramid: Any) -> str | None:
    return unusual_branches(pyramid.blocks) or begins_with(pyramid.out_conv)


class LateralBlock(nn.Module):
    """1x1 convolution, norm and ReLU of the features of a level, plus the coarser level's map."""

    def __init__(self, in_channels: int, channels: int, use_norm: NormName) -> None:
        super().__init__()
        self.conv_norm_relu = conv_norm_relu(in_channels, channels, use_norm, 1)

    def forward(self, coarser: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Maps [N, channels, h, w] and [N, in_channels, H, W] -> map [N, channels, H, W]."""
        y = self.conv_norm_relu(x)
        return _resized(coarser, (y.shape[2], y.shape[3])) + y


class FeaturePyramid(nn.Module):
    """Levels added from the coarsest to the finest, each convolved, then fused at the finest.

    The names of tensors are those of segmentation_models_pytorch's UPerNetDecoder.

    Args:
        channels: of each level's features, finest first.
        out_channels: of every convolution.
        bins: of the pyramid over the coarsest level.
        use_norm: as in `make_norm`.
        norm_eps: of a layer norm of the features, None for no such norm.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: int,
        bins: Sequence[int] = (1, 2, 3, 6),
        use_norm: NormName = "batchnorm",
        norm_eps: float | None = 1e-6,
    ) -> None:
        super().__init__()
        normed = channels if norm_eps is not None else ()
        self.feature_norms = nn.ModuleList(LayerNorm2d(c, norm_eps or 0.0) for c in normed)
        self.psp = PooledPyramid(channels[-1], out_channels, bins, use_norm)
        self.fpn_lateral_blocks = nn.ModuleList()
        self.fpn_conv_blocks = nn.ModuleList()
        for count in reversed(channels[:-1]):
            self.fpn_lateral_blocks.append(LateralBlock(count, out_channels, use_norm))
            self.fpn_conv_blocks.append(conv_norm_relu(out_channels, out_channels, use_norm))
        self.fusion_block: Any = conv_norm_relu(
            len(channels) * out_channels, out_channels, use_norm
        )

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps of the levels, finest first -> map [N, out_channels, H, W] of the finest's size."""
        levels = list(features)
        if len(self.feature_norms):
            levels = [n(x) for n, x in zip(self.feature_norms, levels, strict=True)]
        *finer, coarsest = levels
        outs = top_down(self.psp(coarsest), finer, self.fpn_lateral_blocks, self.fpn_conv_blocks)
        size = (outs[0].shape[2], outs[0].shape[3])
        if why_not_short(self, _fusion_skips, _fusion_unfit) is None:
            return run_resized(outs, self.fusion_block, size)
        return self.fusion_block(torch.cat([_resized(x, size) for x in outs], 1))


def top_down(
    top: torch.Tensor,
    finer: Sequence[torch.Tensor],
    laterals: Iterable[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
    convolutions: Iterable[Callable[[torch.Tensor], torch.Tensor]],
) -> list[torch.Tensor]:
    """The maps of a feature pyramid, finest first.

    Args:
        top: what was made of the coarsest level, [N, C, h, w].
        finer: features of the other levels, finest first.
        laterals: from the coarser level's map and the features to the level's map; the coarsest
            of `finer` first.
        convolutions: of each such map, in the same order.

    Returns:
        The convolved maps of `finer`, and `top` as the last.
    """
    state, outs = top, [top]
    for x, lateral, convolution in zip(finer[::-1], laterals, convolutions, strict=True):
        state = lateral(state, x)
        outs.append(convolution(state))
    return outs[::-1]


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return x if (x.shape[2], x.shape[3]) == size else upsample_bilinear(x, size)


def _fusion_skips(decoder: Any) -> Iterable[nn.Module]:
    return decoder.fusion_block, decoder.fusion_block[0]


def _fusion_unfit(decoder: Any) -> str | None:
    return begins_with(decoder.fusion_block)
