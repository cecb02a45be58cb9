"""Launches of the Triton kernels: points brought into order, lists of near tiles, results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch

from .triton_config import (
    GRADIENT_LABELS,
    KEYS,
    LIST_BYTES,
    NEAR_BLOCK,
    ORDER_BLOCK,
    STAGES,
    TILE,
    WARPS,
    dims_block,
    label_block,
    order_bits,
    precision,
)


@dataclasses.dataclass(frozen=True)
class Points:
    """The points of all images in an order in which neighbours stand together.

    Attributes:
        features: [N, D, padded] float32; past the last point it is repeated.
        order: int64 [N, padded]: where each point came from.
        lows, highs: [N * tiles, D]: the ranges of the features over each tile.
        points: how many there are without the padding.
    """

    features: torch.Tensor
    order: torch.Tensor
    lows: torch.Tensor
    highs: torch.Tensor
    points: int

    @property
    def tiles(self) -> int:
        """Of an image."""
        return self.features.shape[2] // TILE

    def planes(self, values: torch.Tensor, multiple: int) -> torch.Tensor:
        """values [N, L, P] in this order, float32, with zeros for padded points and labels."""
        batch, labels, _ = values.shape
        rows = math.ceil(labels / multiple) * multiple
        planes = values.new_zeros((batch, rows, self.order.shape[1]), dtype=torch.float32)
        order = self.order[:, None, : self.points].expand(-1, labels, -1)
        planes[:, :labels, : self.points] = values.gather(2, order)
        return planes


def arrange(features: torch.Tensor) -> Points:
    """The points of features [N, D, P] in order."""
    from .triton_kernels import order_kernel

    batch, dims, points = features.shape
    features = features.float().contiguous()
    codes = torch.empty((batch, points), dtype=torch.int64, device=features.device)
    with on(features.device):
        order_kernel[(math.ceil(points / ORDER_BLOCK), batch)](
            features,
            features.amin(2),
            codes,
            points,
            DIMS=dims,
            BITS=order_bits(dims),
            BLOCK=ORDER_BLOCK,
            num_warps=WARPS,
        )
    order = codes.sort(dim=1, stable=True).indices
    missing = -points % TILE
    order = torch.cat([order, order[:, -1:].expand(-1, missing)], 1).contiguous()
    features = features.gather(2, order[:, None].expand(-1, dims, -1))
    tiles = features.view(batch, dims, -1, TILE)
    lows, highs = (r.transpose(1, 2).reshape(-1, dims) for r in (tiles.amin(3), tiles.amax(3)))
    return Points(features, order, lows.contiguous(), highs.contiguous(), points)


def limit(points: int, dtype: torch.dtype) -> float:
    """The squared distance beyond which tiles are left out.

    The weights there, all of them together, are less than half a unit in the last place of 1: what
    is left out is less than the largest value's rounding. Nor do weights that float32 has no normal
    number for count.
    """
    bits = 1 - math.log2(torch.finfo(dtype).eps) + math.log2(points)
    return min(bits, 126.0) * 2 * math.log(2)


def near_lists(points: Points, furthest: float) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(first tile, lists [rows, tiles], counts [rows]) for the tiles of all images, in parts that
    bound the memory of the lists."""
    from .triton_kernels import near_kernel

    tiles, dims = points.tiles, points.lows.shape[1]
    total, rows = points.lows.shape[0], max(1, LIST_BYTES // (4 * tiles))
    for first in range(0, total, rows):
        size = min(rows, total - first)
        near = points.order.new_empty((size, tiles), dtype=torch.int32)
        counts = points.order.new_empty(size, dtype=torch.int32)
        with on(near.device):
            near_kernel[(size,)](
                points.lows,
                points.highs,
                near,
                counts,
                first,
                tiles,
                furthest,
                DIMS=dims,
                BLOCK=NEAR_BLOCK,
                num_warps=WARPS,
            )
        yield first, near, counts


def filter_values(values: torch.Tensor, points: Points) -> torch.Tensor:
    """[N, L, P] in the dtype of values [N, L, P]."""
    from .triton_kernels import filter_kernel

    batch, labels, count = values.shape
    block = label_block(labels)
    planes = points.planes(values, block)
    out = torch.empty((batch, labels, count), dtype=values.dtype, device=values.device)
    for first, near, counts in near_lists(points, limit(count, values.dtype)):
        with on(values.device):
            filter_kernel[(near.shape[0], planes.shape[1] // block)](
                planes,
                points.features,
                points.order,
                near,
                counts,
                out,
                first,
                points.tiles,
                points.features.shape[2],
                count,
                labels,
                planes.shape[1],
                DIMS=points.features.shape[1],
                BT=TILE,
                BK=KEYS,
                BL=block,
                PRECISION=precision(values),
                num_warps=WARPS,
                num_stages=STAGES,
            )
    return out


def feature_gradient(
    grads: torch.Tensor, values: torch.Tensor, points: Points, dtype: torch.dtype
) -> torch.Tensor:
    """[N, D, P] in `dtype` from grads and values [N, L, P]."""
    from .triton_kernels import feature_gradient_kernel

    batch, _, count = values.shape
    dims = points.features.shape[1]
    grad_planes, planes = (points.planes(x, GRADIENT_LABELS) for x in (grads, values))
    out = torch.empty((batch, dims, count), dtype=dtype, device=values.device)
    for first, near, counts in near_lists(points, limit(count, dtype)):
        with on(values.device):
            feature_gradient_kernel[(near.shape[0],)](
                grad_planes,
                planes,
                points.features,
                points.order,
                near,
                counts,
                out,
                first,
                points.tiles,
                points.features.shape[2],
                count,
                planes.shape[1],
                DIMS=dims,
                BT=TILE,
                BK=KEYS,
                BL=GRADIENT_LABELS,
                BD=dims_block(dims),
                PRECISION=precision(values),
                num_warps=WARPS,
                num_stages=STAGES,
            )
    return out


def on(device: torch.device) -> Any:
    """Triton launches on the current device, whatever its arguments are on."""
    return torch.cuda.device(device if device.type == "cuda" else -1)
