"""Inputs for the tests and benchmarks of gaussian_filter."""

from __future__ import annotations

from typing import Any

import torch

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import gaussian_filter


def _peer(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    differences = features[:, :, :, None] - features[:, :, None, :]
    return values @ torch.exp(-0.5 * differences.square().sum(1))


def _cdist(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    f = features.mT
    return values @ torch.exp(-0.5 * torch.cdist(f, f).square())


def _sample(why: str, batch: int, labels: int, dims: int, points: int, scale: float = 1) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        features = make.tensor(batch, dims, points, scale=scale)
        return {"values": make.tensor(batch, labels, points), "features": features}

    return Sample(why, inputs)


def _far_apart(make: Maker) -> dict[str, Any]:
    clusters = torch.arange(3).repeat_interleave(70) * 40.0
    features = make.tensor(2, 2, 210) + clusters.to(make.device, make.dtype)
    return {"values": make.tensor(2, 3, 210), "features": features}


def _strided(make: Maker) -> dict[str, Any]:
    return {
        "values": make.tensor(2, 33, 5).transpose(1, 2),
        "features": make.tensor(2, 4, 66)[:, 1:, ::2],
    }


def _error(
    why: str, error: type[Exception], match: str, values: tuple[int, ...], features: tuple[int, ...]
) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        return {"values": make.tensor(*values), "features": make.tensor(*features)}

    return ErrorSample(why, inputs, error, match)


def _wrong_dtype(make: Maker) -> dict[str, Any]:
    return {"values": make.tensor(1, 2, 9), "features": torch.ones(1, 2, 9, dtype=torch.int64)}


def _workload(name: str, height: int, width: int, labels: int, bilateral: bool) -> Workload:
    points = height * width

    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        widths = 80.0 if bilateral else 3.0
        position = torch.stack([columns, rows]).reshape(1, 2, points) / widths
        colors = make.labels(1, 3, points, classes=256).cpu() / 13.0
        features = torch.cat([position, colors], 1) if bilateral else position
        values = make.tensor(1, labels, points).softmax(1)
        return {"values": values, "features": features.to(values)}

    def moved(inputs: dict[str, Any]) -> int:
        return (2 * inputs["values"].numel() + inputs["features"].numel()) * 4

    dims = 5 if bilateral else 2
    return Workload(name, inputs, moved, lambda _: points * points * (3 * dims + 2 * labels + 20))


SAMPLES = OpSamples(
    function=gaussian_filter,
    peer=_peer,
    samples=(
        _sample("spatial features, two labels", 2, 2, 2, 40),
        _sample("bilateral features, labels leave a rest of every block", 1, 15, 5, 130),
        _sample("more points than are summed at once", 1, 3, 2, 600, 3.0),
        _sample("one label, one feature, one point", 1, 1, 1, 1),
        _sample("eight features, many labels", 1, 21, 8, 65, 0.5),
        _sample("points on top of each other", 1, 3, 2, 70, 0.0),
        Sample("points so far apart that tiles are skipped", _far_apart),
        Sample("neither is contiguous", _strided),
        _sample("batch 0", 0, 3, 2, 9),
    ),
    errors=(
        _error("rank of values", ValueError, "values has shape", (2, 9), (1, 2, 9)),
        _error("features have another rank", ValueError, "features has shape", (1, 2, 9), (2, 9)),
        _error("no labels", ValueError, "L and P", (1, 0, 9), (1, 2, 9)),
        _error("no features", ValueError, "D and P", (1, 2, 9), (1, 0, 9)),
        _error("other number of points", ValueError, "N and P of values", (1, 2, 9), (1, 2, 8)),
        _error("other batch size", ValueError, "N and P of values", (2, 2, 9), (1, 2, 9)),
        ErrorSample("integer features", _wrong_dtype, TypeError, "dtype"),
    ),
    differentiable=("values", "features"),
    linear_in="values",
    double_backward=True,
    cpu_workloads=(
        _workload("60x80 L21 bilateral", 60, 80, 21, True),
        _workload("120x160 L2 spatial", 120, 160, 2, False),
    ),
    gpu_workloads=(_workload("90x120 L21 bilateral", 90, 120, 21, True),),
    other_peers={"cdist": _cdist},
)
