"""Inputs for the tests and benchmarks of window_filter."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import reference, window_filter


def _unfolded(x: torch.Tensor, radius: int) -> torch.Tensor:
    """[N, C, window, H, W], 0 outside of the image."""
    n, c, h, w = x.shape
    # As one-channel images: unfold keeps the window's order for each.
    columns = F.unfold(x.reshape(n * c, 1, h, w), 2 * radius + 1, padding=radius)
    return columns.view(n, c, -1, h, w)


def _peer(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    if values.shape[0] == 0:  # F.unfold takes no empty batch
        return values + features.sum() * 0
    difference = features[:, :, None] - _unfolded(features, radius)
    weights = torch.exp(-0.5 * difference.square().sum(1))
    return (_unfolded(values, radius) * weights[:, None]).sum(2)


def _shift_by_shift(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    return reference.forward(values, features, radius)


def _sample(
    why: str, shape: tuple[int, ...], dims: int, radius: int, scale: float = 1, **layouts: str
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        n, _, h, w = shape
        return {
            "values": make.map(*shape, layout=layouts.get("values", "contiguous")),
            "features": make.map(
                n, dims, h, w, layout=layouts.get("features", "contiguous"), scale=scale
            ),
            "radius": radius,
        }

    return Sample(why, inputs)


def _error(
    why: str,
    error: type[Exception],
    match: str,
    values: tuple[int, ...] = (1, 2, 5, 6),
    features: tuple[int, ...] = (1, 2, 5, 6),
    radius: int = 1,
    dtype: torch.dtype | None = None,
) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        f = make.tensor(*features)
        return {
            "values": make.tensor(*values),
            "features": f if dtype is None else f.to(dtype),
            "radius": radius,
        }

    return ErrorSample(why, inputs, error, match)


def _workload(name: str, height: int, width: int, labels: int, radius: int) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        place = torch.stack([x, y])[None] / 80.0
        colors = make.labels(1, 3, height, width, classes=256).cpu() / 13.0
        values = make.tensor(1, labels, height, width).softmax(1)
        features = torch.cat([place, colors], 1).to(values)
        return {
            "values": values.contiguous(memory_format=memory_format),
            "features": features.contiguous(memory_format=memory_format),
            "radius": radius,
        }

    def moved(inputs: dict[str, Any]) -> int:
        return (2 * inputs["values"].numel() + inputs["features"].numel()) * 4

    pairs = height * width * (2 * radius + 1) ** 2
    return Workload(name, inputs, moved, lambda _: pairs * (3 * 5 + 2 * labels + 20))


SAMPLES = OpSamples(
    function=window_filter,
    peer=_peer,
    samples=(
        _sample("labels and columns leave a rest of every block", (1, 7, 9, 75), 3, 2),
        _sample("blocks of columns inside of the image", (1, 3, 5, 210), 2, 3),
        _sample("window larger than the image", (2, 2, 3, 4), 2, 9),
        _sample("more shifts than are summed at once", (1, 2, 12, 21), 1, 5, 0.3),
        _sample("radius 0", (1, 3, 4, 5), 2, 0),
        _sample("one row", (1, 2, 1, 33), 5, 4),
        _sample("one column", (1, 2, 33, 1), 5, 4),
        _sample("one pixel", (1, 1, 1, 1), 1, 3),
        _sample("channels_last", (2, 6, 5, 8), 3, 1, values="channels_last"),
        _sample("channels_last features", (2, 2, 5, 8), 3, 1, features="channels_last"),
        _sample("neither is contiguous", (2, 5, 6, 70), 2, 1, values="strided", features="strided"),
        _sample("weights that vanish", (1, 2, 6, 7), 4, 2, 20.0),
        _sample("batch 0", (0, 2, 4, 5), 2, 1),
    ),
    errors=(
        _error("rank of values", ValueError, "values has shape", values=(2, 5, 6)),
        _error("rank of features", ValueError, "features has shape", features=(2, 5, 6)),
        _error("no labels", ValueError, "at least 1", values=(1, 0, 5, 6)),
        _error("other size", ValueError, "N, H and W of values", features=(1, 2, 6, 5)),
        _error("other batch size", ValueError, "N, H and W of values", features=(2, 2, 5, 6)),
        _error("negative radius", ValueError, "radius is -1", radius=-1),
        _error("integer features", TypeError, "dtype", dtype=torch.int64),
    ),
    differentiable=("values", "features"),
    linear_in="values",
    double_backward=True,
    cpu_workloads=(
        # Unfolding 366x500 pixels for a window of 11 takes gigabytes.
        _workload("120x160 L21 window 11", 120, 160, 21, 5),
        _workload("366x500 L21 window 7", 366, 500, 21, 3),
    ),
    gpu_workloads=(_workload("366x500 L21 window 11", 366, 500, 21, 5),),
    other_peers={"shift by shift": _shift_by_shift},
)
