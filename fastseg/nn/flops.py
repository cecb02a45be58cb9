"""Counts the operations of heads, as written and as fastseg computes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from ..ops.upsample_conv2d import plan
from ..ops.upsample_conv2d.lowres import largest
from .mlp_head import folds

__all__ = [
    "Flops",
    "mlp_fuse_flops",
    "pyramid_conv2d_flops",
    "upsample_conv2d_flops",
    "upsample_separable_conv2d_flops",
]

Shape = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Flops:
    """Operations of a forward pass: multiplications and additions of the matrix products.

    Resizing, concatenating, norms and activations are left out on both sides.

    Attributes:
        before: of the layers as written.
        after: of the function.
    """

    before: int
    after: int


def upsample_conv2d_flops(
    parts: Sequence[Shape],
    weight: Shape,
    size: Sequence[int] | None = None,
    mode: str = "bilinear",
    device: str = "cpu",
) -> Flops:
    """Operations of `fastseg.upsample_conv2d`.

    Args:
        parts: shapes [N, C_i, h_i, w_i].
        weight: shape [C_out, sum of C_i, k, k].
        size, mode: as in upsample_conv2d.
        device: type of the device that decides what pays.
    """
    maps, target = _maps(parts, size, device)
    large = target[0] * target[1]
    out_channels, _, kernel = weight[:3]
    before = after = 0
    for part in maps:
        part_weight = torch.empty(out_channels, part.shape[1], kernel, kernel, device="meta")
        products = part.shape[0] * part.shape[1] * out_channels
        pixels = part.shape[2] * part.shape[3]
        before += products * kernel**2 * large
        if plan.phases_pay(part, part_weight, target, mode):
            after += products * 16 * pixels
        elif plan.pays(part, part_weight, target):
            after += products * kernel**2 * pixels
        else:
            after += products * kernel**2 * large
    return Flops(2 * before, 2 * after)


def upsample_separable_conv2d_flops(
    parts: Sequence[Shape], pointwise_weight: Shape, device: str = "cpu"
) -> Flops:
    """Operations of `upsample_separable_conv2d`.

    Args:
        parts: shapes [N, C_i, h_i, w_i].
        pointwise_weight: shape [C_out, sum of C_i, 1, 1].
    """
    maps, target = _maps(parts, None, device)
    large = target[0] * target[1]
    before = after = 0
    for part in maps:
        n, channels, height, width = part.shape
        weight = torch.empty(pointwise_weight[0], channels, 1, 1, device="meta")
        as_written = n * channels * (9 + pointwise_weight[0]) * large
        before += as_written
        if plan.separable_pays(part, weight, target):
            after += 9 * n * channels * pointwise_weight[0] * height * width
        else:
            after += as_written
    return Flops(2 * before, 2 * after)


def pyramid_conv2d_flops(x: Shape, cells: Sequence[Shape], weight: Shape) -> Flops:
    """Operations of `pyramid_conv2d`.

    Args:
        x: shape [N, C, H, W].
        cells: shapes [N, C_i, b_i, b_i'].
        weight: shape [C_out, C + sum of C_i, k, k].
    """
    n, channels, height, width = x
    out_channels, _, kernel = weight[:3]
    taps = kernel**2 * out_channels
    before = after = n * channels * taps * height * width
    for _, grid_channels, rows, columns in cells:
        before += n * grid_channels * taps * height * width
        # Each cell with each tap, then spread over the map.
        after += n * rows * columns * taps * (grid_channels + height * width)
    return Flops(2 * before, 2 * after)


def mlp_fuse_flops(
    levels: Sequence[Shape], hidden: int, out_channels: int, device: str = "cpu"
) -> Flops:
    """Operations of `mlp_fuse`, including the products of weights at every call.

    Args:
        levels: shapes [N, C_i, h_i, w_i].
        hidden: channels D of each level's linear layer.
        out_channels: of the layer after the concatenation.
    """
    large = max(level[2] * level[3] for level in levels)
    parts, before, products = [], 0, 0
    for level in levels:
        n, channels, height, width = level
        before += n * hidden * (channels * height * width + out_channels * large)
        if folds(level, hidden, out_channels):
            parts.append((n, channels, height, width))
            products += out_channels * hidden * channels
        else:
            parts.append((n, hidden, height, width))
            products += n * hidden * channels * height * width
    weight = (out_channels, sum(part[1] for part in parts), 1, 1)
    after = upsample_conv2d_flops(parts, weight, device=device).after
    return Flops(2 * before, 2 * products + after)


def _maps(
    parts: Sequence[Shape], size: Sequence[int] | None, device: str
) -> tuple[list[torch.Tensor], list[int]]:
    """Maps without memory of their own, and the size that they are resized to."""
    maps = [torch.empty((), device=device).expand(tuple(part)) for part in parts]
    main = maps[largest(maps)]
    return maps, list(main.shape[2:]) if size is None else list(size)
