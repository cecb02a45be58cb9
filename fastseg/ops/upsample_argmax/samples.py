"""Inputs for the tests and benchmarks of upsample_argmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...dtypes import label_dtype
from ...testing.compare import assert_labels_as_accurate
from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_argmax


def _peer(logits: torch.Tensor, size: Any, align_corners: bool = False) -> torch.Tensor:
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    return upsampled.argmax(1).to(label_dtype(logits.shape[1]))


def _peer_max(logits: torch.Tensor, size: Any, align_corners: bool = False) -> torch.Tensor:
    """Faster than argmax on a CPU, whose reduction over a middle axis is not vectorised."""
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    return upsampled.max(1)[1].to(label_dtype(logits.shape[1]))


def _compare(inputs: dict[str, Any], labels: torch.Tensor) -> None:
    logits, size = inputs["logits"], inputs["size"]
    options = {"mode": "bilinear", "align_corners": inputs.get("align_corners", False)}
    peer = F.interpolate(logits, size, **options)
    truth = F.interpolate(logits.double(), size, **options)
    assert labels.dtype == (label_dtype(logits.shape[1]))
    assert_labels_as_accurate(labels, peer, truth)


def _sample(
    why: str, shape: tuple[int, ...], layout: str = "contiguous", **arguments: Any
) -> Sample:
    return Sample(why, lambda make: {"logits": make.map(*shape, layout=layout), **arguments})


def _error(
    why: str, error: type[Exception], match: str, shape: tuple[int, ...], **arguments: Any
) -> ErrorSample:
    return ErrorSample(why, lambda make: {"logits": make.tensor(*shape), **arguments}, error, match)


def _with(value: float) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        logits = make.map(2, 5, 7, 6)
        logits[0, 2, 3, 3] = logits[1, 4, 1, 1] = logits[1, 1, 5, 2] = value
        return {"logits": logits, "size": (23, 29)}

    return inputs


def _workload(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        logits = make.map(*shape).contiguous(memory_format=memory_format)
        return {"logits": logits, "size": size}

    pixels = shape[0] * size[0] * size[1]

    def moved(inputs: dict[str, Any]) -> int:
        return inputs["logits"].numel() * inputs["logits"].element_size() + pixels

    # Per pixel and class: a blend of two rows (3) and a comparison.
    return Workload(name, inputs, moved, lambda _: 4 * pixels * shape[1], ("forward",))


SAMPLES = OpSamples(
    function=upsample_argmax,
    peer=_peer,
    other_peers={"max": _peer_max},
    samples=(
        _sample("integer scale", (2, 19, 6, 7), size=(24, 28)),
        _sample("corners aligned", (1, 21, 9, 9), size=(33, 33), align_corners=True),
        _sample("odd ratio, channels_last", (2, 5, 11, 17), "channels_last", size=(29, 23)),
        _sample("one int for both sizes, strided", (1, 7, 6, 5), "strided", size=13),
        _sample("down", (1, 6, 33, 40), size=(8, 9)),
        _sample("size kept", (2, 4, 6, 5), size=(6, 5)),
        _sample("from one pixel to one pixel", (1, 3, 1, 1), size=(1, 1)),
        _sample("one class", (2, 1, 4, 4), size=(9, 9)),
        _sample("256 classes: the last uint8", (1, 256, 3, 4), size=(7, 8)),
        _sample("more classes than uint8 holds", (1, 1000, 3, 4), size=(7, 8)),
        Sample("NaN is larger than everything", _with(float("nan"))),
        Sample("infinity, and the NaN it turns to", _with(float("inf"))),
        Sample("minus infinity", _with(float("-inf"))),
        Sample(
            "equal logits: the first class wins",
            lambda make: {"logits": make.map(1, 1, 5, 5).repeat(1, 4, 1, 1), "size": (11, 12)},
        ),
        _sample("batch 0", (0, 3, 5, 5), size=(10, 10)),
    ),
    errors=(
        _error("rank", ValueError, "logits has shape", (3, 5, 5), size=(4, 4)),
        _error("no class", ValueError, "at least 1", (1, 0, 5, 5), size=(4, 4)),
        _error("size 0", ValueError, "size is", (1, 3, 5, 5), size=0),
        _error("three sizes", ValueError, "size has 3", (1, 3, 5, 5), size=(4, 4, 4)),
        ErrorSample(
            "integer logits",
            lambda make: {"logits": torch.ones(1, 2, 4, 4, dtype=torch.int64), "size": 8},
            TypeError,
            "dtype",
        ),
    ),
    compare=_compare,
    cpu_workloads=(
        _workload("N1 C21 129->513", (1, 21, 129, 129), (513, 513)),
        _workload("N1 C19 128x256->1024x2048", (1, 19, 128, 256), (1024, 2048)),
        _workload("N1 C150 128->512", (1, 150, 128, 128), (512, 512)),
    ),
    gpu_workloads=(
        _workload("W9a N1 C19 128x256->1024x2048", (1, 19, 128, 256), (1024, 2048)),
        _workload("W9b N16 C150 128->512", (16, 150, 128, 128), (512, 512)),
    ),
)
