"""Inputs for the tests and benchmarks of permutohedral_filter."""

from __future__ import annotations

from typing import Any

import torch

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import permutohedral_filter
from .reference import composition


def _inputs(
    batch: int,
    labels: int,
    features: int,
    pixels: int,
    spread: float = 1.0,
    shared: bool = False,
    strided: bool = False,
    **options: Any,
) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        values = make.tensor(batch, labels, pixels)
        if strided:
            values = make.tensor(batch, pixels, 2 * labels)[:, :, ::2].transpose(1, 2)
        positions = make.tensor(1 if shared else batch, features, pixels, scale=spread)
        return {"values": values, "features": positions, **options}

    return inputs


def _grid(height: int, width: int, sigma: float, make: Maker) -> torch.Tensor:
    """Positions (x, y) / sigma of the pixels of an image [2, P]."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (torch.stack([x, y]).flatten(1).double() / sigma).to(make.device, make.dtype)


def _image(make: Maker) -> dict[str, Any]:
    positions = _grid(20, 33, 3.0, make)
    smooth = (positions.double() * 0.8).sin().to(make.dtype)
    features = torch.cat([positions, smooth, smooth[:1] * 0.5]).unsqueeze(0)
    features = features + 0.375  # no pixel exactly on a vertex: there the gradient has a corner
    return {"values": make.tensor(1, 3, 660), "features": features}


def _error(
    why: str, error: type[Exception], match: str, from_values: bool = False, **arguments: Any
) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        return {"values": make.tensor(2, 3, 12), "features": make.tensor(2, 4, 12), **arguments}

    return ErrorSample(why, inputs, error, match, from_values)


def _with_one(value: float) -> torch.Tensor:
    features = torch.zeros(2, 4, 12)
    features[1, 2, 7] = value
    return features


def _workload(name: str, labels: int, height: int, width: int) -> Workload:
    def inputs(make: Maker, _: torch.memory_format) -> dict[str, Any]:
        # A smooth image with some noise, 80 pixels and 13 grey levels wide, as in the CRF.
        positions = _grid(height, width, 80.0, make)
        colors = 8.0 * torch.sin(_grid(height, width, 97.0, make).repeat(2, 1)[:3] * 3.0)
        colors = colors + make.tensor(3, height * width, scale=0.15)
        features = torch.cat([positions, colors]).unsqueeze(0)
        return {"values": make.tensor(1, labels, height * width), "features": features}

    pixels = height * width

    def moved(_: dict[str, Any]) -> int:
        return 4 * pixels * (2 * labels + 5)

    # Splat and slice: six multiply-adds each per value.
    return Workload(name, inputs, moved, lambda _: 24 * pixels * labels, ("forward",))


SAMPLES = OpSamples(
    function=permutohedral_filter,
    peer=composition,
    samples=(
        Sample("5 features", _inputs(2, 5, 5, 57)),
        Sample("2 features, 21 labels", _inputs(1, 21, 2, 211, spread=3.0)),
        Sample("1 feature", _inputs(2, 3, 1, 70, spread=4.0)),
        Sample("8 features", _inputs(1, 2, 8, 33)),
        Sample("3 features, transposed", _inputs(2, 9, 3, 64, transpose=True)),
        Sample("one lattice for the batch", _inputs(3, 4, 4, 50, shared=True)),
        Sample("more labels than go together, strided", _inputs(1, 45, 2, 40, strided=True)),
        Sample("several chunks of pixels", _inputs(1, 2, 2, 8192 + 5, spread=2.0)),
        Sample("an image: pixels share simplices", _image),
        Sample("one pixel", _inputs(8, 3, 5, 1)),
        Sample("one label", _inputs(2, 1, 4, 38)),
        Sample("6 features, far apart", _inputs(1, 4, 6, 20, spread=40.0)),
        Sample("7 features", _inputs(1, 17, 7, 21)),
        Sample("9 features: keys are not packed", _inputs(2, 3, 9, 26)),
        Sample("19 features, transposed", _inputs(1, 5, 19, 37, transpose=True)),
        Sample("coordinates beyond 16 bits", _inputs(1, 4, 5, 41, spread=8000.0)),
        Sample("batch 0", _inputs(0, 3, 2, 9)),
    ),
    errors=(
        _error("rank of values", ValueError, "values has shape", values=torch.zeros(2, 12)),
        _error("rank of features", ValueError, "features has shape", features=torch.zeros(4, 12)),
        _error("no labels", ValueError, "at least 1", values=torch.zeros(2, 0, 12)),
        _error("no features", ValueError, "D must be", features=torch.zeros(2, 0, 12)),
        _error("pixels differ", ValueError, "features has 13", features=torch.zeros(2, 4, 13)),
        _error("batch differs", ValueError, "batch size 3", features=torch.zeros(3, 4, 12)),
        _error(
            "dtypes differ", TypeError, "torch.float64", features=torch.zeros(2, 4, 12).double()
        ),
        _error("integers", TypeError, "values has dtype", values=torch.zeros(2, 3, 12).long()),
        _error("NaN", ValueError, "at pixel 7: not finite", True, features=_with_one(float("nan"))),
        _error("infinity", ValueError, "not finite", True, features=_with_one(-float("inf"))),
        _error("huge", ValueError, "image 1 .* too large", True, features=_with_one(1e9)),
        _error("larger", ValueError, "too large for the lattice", True, features=_with_one(1e37)),
    ),
    differentiable=("values", "features"),
    linear_in="values",
    double_backward=True,
    cpu_workloads=(
        _workload("N1 L21 120x160 D5", 21, 120, 160),
        _workload("N1 L2 120x160 D5", 2, 120, 160),
    ),
    gpu_workloads=(
        _workload("N1 L21 366x500 D5", 21, 366, 500),
        _workload("N1 L150 366x500 D5", 150, 366, 500),
    ),
)
