"""Inputs for the tests and benchmarks of deformable_attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import deformable_attention

_Shapes = tuple[tuple[int, int], ...]


def _peer(
    value: torch.Tensor, shapes: _Shapes, locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Maps with a border of zeros, and four gathers from each."""
    n, queries, m = locations.shape[:3]
    # Zero, and a function of all three where there is no level to read.
    out = value[:0].sum() + locations[:0].sum() + weights[:0].sum()
    out = out.expand(n, queries, m, value.shape[3])
    for i, (level, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)
    ):
        if h * w == 0:
            continue
        padded = F.pad(level.unflatten(1, (h, w)), (0, 0, 0, 0, 1, 2, 1, 2))  # [N, h+3, w+3, M, D]
        x = (locations[:, :, :, i, :, 0] * w - 0.5).clamp(-1, w)
        y = (locations[:, :, :, i, :, 1] * h - 0.5).clamp(-1, h)
        left, top = x.detach().floor(), y.detach().floor()
        right, down = x - left, y - top
        column = left.nan_to_num().long() + 1
        row = top.nan_to_num().long() + 1
        image = torch.arange(n, device=value.device)[:, None, None, None]
        head = torch.arange(m, device=value.device)[None, None, :, None]
        for dy, of_y in ((0, 1 - down), (1, down)):
            for dx, of_x in ((0, 1 - right), (1, right)):
                cells = padded[image, row + dy, column + dx, head]  # [N, Lq, M, P, D]
                factor = weights[:, :, :, i] * of_x * of_y
                out = out + (factor[..., None] * cells).sum(3)
    return out.flatten(2)


def _grid_sample(
    value: torch.Tensor, shapes: _Shapes, locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """What most models do on PyTorch alone."""
    n, queries, m, levels, points, _ = locations.shape
    sampled = []
    for i, (level, (h, w)) in enumerate(
        zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)
    ):
        if h * w == 0:  # F.grid_sample takes no empty map
            sampled.append(value.new_zeros(n * m, value.shape[3], queries, points))
            continue
        maps = level.flatten(2).transpose(1, 2).reshape(n * m, value.shape[3], h, w)
        grid = (2 * locations[:, :, :, i] - 1).transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, align_corners=False))
    stacked = torch.stack(sampled, -2).flatten(-2)
    by_head = weights.transpose(1, 2).reshape(n * m, 1, queries, levels * points)
    return (stacked * by_head).sum(-1).view(n, -1, queries).transpose(1, 2).contiguous()


def _inputs(
    make: Maker, n: int, shapes: _Shapes, heads: int, channels: int, queries: int, points: int
) -> dict[str, Any]:
    """Some of the locations lie outside."""
    cells = sum(h * w for h, w in shapes)
    places = (n, queries, heads, len(shapes), points)
    return {
        "value": make.tensor(n, cells, heads, channels),
        "shapes": shapes,
        "locations": make.tensor(*places, 2, scale=0.4) + 0.5,
        "weights": make.tensor(*places),
    }


def _sample(why: str, *sizes: Any) -> Sample:
    return Sample(why, lambda make: _inputs(make, *sizes))


def _far(make: Maker) -> dict[str, Any]:
    values = _inputs(make, 1, ((3, 5),), 2, 3, 6, 2)
    values["locations"][0, 1] = 6e4
    values["locations"][0, 2, :, :, :, 0] = -6e4
    values["locations"][0, 3, 0] = 1.75
    return values


def _transposed(make: Maker) -> dict[str, Any]:
    values = _inputs(make, 2, ((3, 4), (2, 2)), 3, 4, 5, 2)
    values["value"] = values["value"].transpose(1, 2).contiguous().transpose(1, 2)
    values["weights"] = values["weights"].flip(1).transpose(2, 3).contiguous().transpose(2, 3)
    return values


def _error(why: str, error: type[Exception], match: str, **changed: Any) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        values = _inputs(make, 1, ((3, 4), (2, 2)), 2, 4, 5, 3)
        return {**values, **{k: v(make) if callable(v) else v for k, v in changed.items()}}

    return ErrorSample(why, inputs, error, match)


def _workload(
    name: str, n: int, shapes: _Shapes, heads: int, channels: int, queries: int, points: int
) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        values = _inputs(make, n, shapes, heads, channels, queries, points)
        # Around places spread evenly, as queries of an encoder have them; weights of a softmax.
        side = torch.rand(values["locations"].shape, generator=torch.Generator().manual_seed(1))
        values["locations"] = (side * 1.1 - 0.05).to(values["locations"])
        flat = values["weights"].flatten(3).softmax(3)
        values["weights"] = flat.view(values["weights"].shape).contiguous()
        return values

    def moved(inputs: dict[str, Any]) -> int:
        result = inputs["value"].numel() * queries // max(inputs["value"].shape[1], 1)
        tensors = (inputs[k].numel() for k in ("value", "locations", "weights"))
        return (sum(tensors) + result) * inputs["value"].element_size()

    flops = n * queries * heads * len(shapes) * points * 4 * (2 * channels + 4)
    return Workload(name, inputs, moved, lambda _: flops)


_ENCODER = ((16, 16), (32, 32), (64, 64))

SAMPLES = OpSamples(
    function=deformable_attention,
    peer=_peer,
    other_peers={"grid_sample": _grid_sample},
    samples=(
        _sample("three levels, 32 channels", 2, ((2, 3), (4, 5), (7, 9)), 3, 32, 7, 4),
        _sample("channels that leave a rest of every vector", 1, ((4, 5), (3, 2)), 2, 31, 5, 3),
        _sample("few channels", 2, ((5, 4), (2, 3)), 3, 3, 5, 2),
        _sample("one level, one point, one head, one channel", 1, ((5, 6),), 1, 1, 11, 1),
        _sample("one point of several levels", 1, ((5, 3), (3, 2), (1, 1)), 2, 8, 6, 1),
        _sample("several points of one level", 1, ((4, 3),), 2, 16, 6, 5),
        _sample("levels without cells", 1, ((0, 3), (3, 4), (2, 0)), 2, 5, 6, 2),
        _sample(
            "maps of one cell, one row and one column", 1, ((1, 1), (1, 6), (7, 1)), 2, 4, 5, 3
        ),
        _sample("more queries than a task has, several per cell", 1, ((5, 7),), 2, 4, 75, 2),
        Sample("far outside", _far),
        Sample("no tensor is contiguous", _transposed),
        _sample("batch 0", 0, ((3, 4),), 2, 4, 5, 2),
    ),
    errors=(
        _error(
            "rank of value", ValueError, "value has shape", value=lambda make: make.tensor(16, 2, 4)
        ),
        _error("no heads", ValueError, "at least 1", value=lambda make: make.tensor(1, 16, 0, 4)),
        _error("no levels", ValueError, "shapes is empty", shapes=()),
        _error("negative side", ValueError, "sides from 0", shapes=((-3, -4), (2, 2))),
        _error("cells missing", ValueError, "16 cells, expected 17", shapes=((3, 4), (5, 1))),
        _error("three sides", ValueError, "expected .height, width", shapes=((3, 4, 1), (2, 2))),
        _error("fractional side", TypeError, "in cells", shapes=((3, 4.5), (2, 2))),
        _error(
            "locations without pairs",
            ValueError,
            "locations has shape",
            locations=lambda make: make.tensor(1, 5, 2, 2, 3),
        ),
        _error(
            "other levels",
            ValueError,
            "L of shapes",
            locations=lambda make: make.tensor(1, 5, 2, 3, 3, 2),
        ),
        _error(
            "other weights",
            ValueError,
            "weights has shape",
            weights=lambda make: make.tensor(1, 5, 2, 2, 4),
        ),
        _error(
            "other dtype",
            TypeError,
            "locations has dtype torch.float64",
            locations=lambda make: make.tensor(1, 5, 2, 2, 3, 2).double(),
        ),
        _error(
            "integer value",
            TypeError,
            "value has dtype",
            value=lambda make: torch.ones(1, 16, 2, 4, dtype=torch.int64),
        ),
    ),
    differentiable=("value", "locations", "weights"),
    linear_in="value",
    double_backward=True,
    cpu_workloads=(
        _workload("N1 3 levels 5376 queries M8 D32 P4", 1, _ENCODER, 8, 32, 5376, 4),
        _workload("N1 3 levels 300 queries M8 D32 P4", 1, _ENCODER, 8, 32, 300, 4),
    ),
    gpu_workloads=(
        _workload("W18a N16 3 levels 5376 queries M8 D32 P4", 16, _ENCODER, 8, 32, 5376, 4),
    ),
)
