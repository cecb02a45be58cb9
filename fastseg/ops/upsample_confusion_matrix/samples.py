"""Inputs for the tests and benchmarks of upsample_confusion_matrix."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.compare import assert_counts_as_accurate
from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_confusion_matrix


def _peer(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int = -100,
    align_corners: bool = False,
) -> torch.Tensor:
    size, classes = target.shape[1:], logits.shape[1]
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    counted = target != ignore_index
    pairs = target[counted].long() * classes + upsampled.argmax(1)[counted]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def _compare(inputs: dict[str, Any], counts: torch.Tensor) -> None:
    logits, target = inputs["logits"], inputs["target"]
    options = {"mode": "bilinear", "align_corners": inputs.get("align_corners", False)}
    peer = F.interpolate(logits, target.shape[1:], **options)
    truth = F.interpolate(logits.double(), target.shape[1:], **options)
    ignored = target == inputs.get("ignore_index", -100)
    assert counts.dtype is torch.int64
    assert_counts_as_accurate(counts, target.long().masked_fill(ignored, -1), peer, truth)


def _inputs(
    shape: tuple[int, ...],
    size: tuple[int, int],
    layout: str = "contiguous",
    dtype: torch.dtype = torch.int64,
    ignore_index: int = 255,
    **arguments: Any,
) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        logits = make.map(*shape, layout=layout)
        target = make.labels(
            shape[0], *size, classes=shape[1], ignored=0.2, ignore_index=ignore_index
        )
        target = target.to(dtype)
        return {"logits": logits, "target": target, "ignore_index": ignore_index, **arguments}

    return inputs


def _strided_target(make: Maker) -> dict[str, Any]:
    target = make.labels(2, 9, 8, classes=3).transpose(1, 2)
    return {"logits": make.map(2, 3, 4, 4), "target": target}


def _error(
    why: str, error: type[Exception], match: str, from_values: bool = False, **arguments: Any
) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        return {"logits": make.tensor(1, 3, 4, 4), **arguments}

    return ErrorSample(why, inputs, error, match, from_values)


def _workload(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        logits = make.map(*shape).contiguous(memory_format=memory_format)
        target = make.labels(shape[0], *size, classes=shape[1], ignored=0.05, ignore_index=255)
        return {"logits": logits, "target": target, "ignore_index": 255}

    pixels = shape[0] * size[0] * size[1]

    def moved(inputs: dict[str, Any]) -> int:
        logits, target = inputs["logits"], inputs["target"]
        return logits.numel() * logits.element_size() + pixels * target.element_size()

    return Workload(name, inputs, moved, lambda _: 4 * pixels * shape[1], ("forward",))


SAMPLES = OpSamples(
    function=upsample_confusion_matrix,
    peer=_peer,
    samples=(
        Sample("integer scale", _inputs((2, 5, 6, 7), (24, 28))),
        Sample(
            "uint8 target, channels_last",
            _inputs((2, 19, 5, 9), (17, 35), "channels_last", torch.uint8),
        ),
        Sample(
            "int32 target, negative ignore_index",
            _inputs((1, 4, 9, 9), (33, 33), "contiguous", torch.int32, -1, align_corners=True),
        ),
        Sample("down, strided", _inputs((1, 6, 20, 24), (9, 8), "strided")),
        Sample("ignore_index that is a class", _inputs((2, 4, 5, 5), (11, 11), ignore_index=2)),
        Sample("transposed target", _strided_target),
        Sample("one class", _inputs((1, 1, 4, 4), (9, 9))),
        Sample(
            "more classes than private matrices", _inputs((1, 1100, 3, 4), (7, 8), ignore_index=-1)
        ),
        Sample("batch 0", _inputs((0, 3, 5, 5), (10, 10))),
    ),
    errors=(
        _error(
            "class too large",
            ValueError,
            r"target is 3 at \(0, 0, 0\)",
            from_values=True,
            target=torch.full((1, 8, 8), 3),
        ),
        _error(
            "negative class",
            ValueError,
            "target is -1",
            from_values=True,
            target=torch.full((1, 8, 8), -1),
        ),
        _error("probabilities", TypeError, "class probabilities", target=torch.rand(1, 3, 8, 8)),
        _error(
            "rank of target",
            ValueError,
            "target has shape",
            target=torch.zeros(1, 1, 8, 8, dtype=torch.int64),
        ),
        _error(
            "batch size of target",
            ValueError,
            "batch size 2",
            target=torch.zeros(2, 8, 8, dtype=torch.int64),
        ),
        _error(
            "boolean target",
            TypeError,
            "target has dtype",
            target=torch.zeros(1, 8, 8, dtype=torch.bool),
        ),
        _error(
            "empty target", ValueError, "at least 1", target=torch.zeros(1, 0, 8, dtype=torch.int64)
        ),
    ),
    compare=_compare,
    cpu_workloads=(
        _workload("N1 C21 129->513", (1, 21, 129, 129), (513, 513)),
        _workload("N1 C19 128x256->1024x2048", (1, 19, 128, 256), (1024, 2048)),
    ),
    gpu_workloads=(
        _workload("W9a+W10 N1 C19 128x256->1024x2048", (1, 19, 128, 256), (1024, 2048)),
        _workload("W9b+W10 N16 C150 128->512", (16, 150, 128, 128), (512, 512)),
    ),
)
