"""Inputs for the tests and benchmarks of upsample_cross_entropy."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_cross_entropy


def _peer(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    align_corners: bool = False,
) -> torch.Tensor:
    size = target.shape[1:]
    upsampled = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(
        upsampled,
        target.long(),
        weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def _inputs(
    shape: tuple[int, ...],
    size: tuple[int, int],
    layout: str = "contiguous",
    dtype: torch.dtype = torch.int64,
    ignored: float = 0.2,
    weighted: bool = False,
    scale: float = 2.0,
    **arguments: Any,
) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        logits = make.map(*shape, layout=layout, scale=scale)
        target = make.labels(shape[0], *size, classes=shape[1], ignored=ignored, ignore_index=255)
        weight = make.tensor(shape[1]).abs() if weighted else None
        return {
            "logits": logits,
            "target": target.to(dtype),
            "weight": weight,
            "ignore_index": 255,
            **arguments,
        }

    return inputs


def _far_apart(make: Maker) -> dict[str, Any]:
    # Between these rows the maxima of the source rows are far above every blend of them.
    logits = make.map(1, 3, 4, 5)
    logits[:, 0, ::2] = logits[:, 1, 1::2] = 300.0
    return {"logits": logits, "target": make.labels(1, 15, 19, classes=3)}


def _error(
    why: str, error: type[Exception], match: str, from_values: bool = False, **arguments: Any
) -> ErrorSample:
    defaults = {"target": torch.zeros(1, 8, 8, dtype=torch.int64)}

    def inputs(make: Maker) -> dict[str, Any]:
        return {"logits": make.tensor(1, 3, 4, 4), **defaults, **arguments}

    return ErrorSample(why, inputs, error, match, from_values)


def _workload(
    name: str, shape: tuple[int, ...], size: tuple[int, int], align_corners: bool = False
) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        logits = make.map(*shape).contiguous(memory_format=memory_format)
        target = make.labels(shape[0], *size, classes=shape[1], ignored=0.05, ignore_index=255)
        return {
            "logits": logits,
            "target": target,
            "ignore_index": 255,
            "align_corners": align_corners,
        }

    pixels = shape[0] * size[0] * size[1]

    def moved(inputs: dict[str, Any]) -> int:
        logits, target = inputs["logits"], inputs["target"]
        return logits.numel() * logits.element_size() + pixels * target.element_size()

    # Per pixel and class: a blend of two rows (3), an exp2 (14) and a sum.
    return Workload(
        name, inputs, moved, lambda _: 18 * pixels * shape[1], ("forward", "forward+backward")
    )


SAMPLES = OpSamples(
    function=upsample_cross_entropy,
    peer=_peer,
    samples=(
        Sample("integer scale, mean", _inputs((2, 5, 6, 7), (24, 28))),
        Sample(
            "sum, corners aligned",
            _inputs((1, 21, 9, 9), (33, 33), reduction="sum", align_corners=True),
        ),
        Sample(
            "none, channels_last",
            _inputs((2, 19, 5, 9), (17, 35), "channels_last", reduction="none"),
        ),
        Sample(
            "class weights, uint8 target",
            _inputs((2, 6, 8, 5), (19, 21), dtype=torch.uint8, weighted=True),
        ),
        Sample(
            "smoothing, int32 target",
            _inputs((1, 4, 6, 6), (24, 24), dtype=torch.int32, label_smoothing=0.1),
        ),
        Sample(
            "weights, smoothing, none",
            _inputs((2, 7, 5, 6), (13, 11), weighted=True, label_smoothing=0.3, reduction="none"),
        ),
        Sample("only smoothing", _inputs((1, 5, 4, 4), (9, 9), label_smoothing=1.0, weighted=True)),
        Sample("down, strided", _inputs((2, 3, 20, 30), (7, 9), "strided")),
        Sample("size kept", _inputs((1, 4, 6, 9), (6, 9))),
        Sample("from one pixel", _inputs((2, 3, 1, 1), (5, 6), reduction="sum")),
        Sample("one class", _inputs((1, 1, 3, 3), (7, 7))),
        Sample("1000 classes", _inputs((1, 1000, 3, 3), (6, 7))),
        Sample(
            "more rows between two source rows than go together, weights",
            _inputs((2, 5, 3, 4), (61, 29), weighted=True, align_corners=True),
        ),
        Sample(
            "the same, smoothing, none",
            _inputs((1, 4, 2, 3), (37, 11), "channels_last", label_smoothing=0.2, reduction="none"),
        ),
        Sample("several bands of rows", _inputs((1, 9, 70, 6), (140, 12))),
        Sample(
            "every pixel ignored, sum", _inputs((1, 3, 4, 4), (8, 8), ignored=1.0, reduction="sum")
        ),
        Sample("confident logits", _inputs((1, 5, 6, 6), (24, 24), scale=30.0)),
        Sample("softmax bound far above the maximum", _far_apart),
        Sample("batch 0, sum", _inputs((0, 3, 4, 4), (8, 8), reduction="sum")),
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
        _error(
            "class beyond 32 bits",
            ValueError,
            "target is 4294967297",
            from_values=True,
            target=torch.full((1, 8, 8), 2**32 + 1),
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
            "empty target", ValueError, "at least 1", target=torch.zeros(1, 8, 0, dtype=torch.int64)
        ),
        _error("rank of logits", ValueError, "logits has shape", logits=torch.zeros(3, 4, 4)),
        _error("length of weight", ValueError, "weight has shape", weight=torch.ones(4)),
        _error(
            "integer weight", TypeError, "weight has dtype", weight=torch.ones(3, dtype=torch.int64)
        ),
        _error("reduction", ValueError, "reduction is 'avg'", reduction="avg"),
        _error("smoothing", ValueError, "label_smoothing is 1.5", label_smoothing=1.5),
        _error("NaN smoothing", ValueError, "label_smoothing is nan", label_smoothing=float("nan")),
    ),
    differentiable=("logits",),
    double_backward=True,
    cpu_workloads=(
        _workload("N4 C21 129->513 corners", (4, 21, 129, 129), (513, 513), True),
        _workload("N1 C150 128->512", (1, 150, 128, 128), (512, 512)),
        _workload("N4 C150 128->512", (4, 150, 128, 128), (512, 512)),
        _workload("N1 C19 97->769 corners", (1, 19, 97, 97), (769, 769), True),
    ),
    gpu_workloads=(
        _workload("W8a N8 C19 97->769 corners", (8, 19, 97, 97), (769, 769), True),
        _workload("W8b N16 C150 128->512", (16, 150, 128, 128), (512, 512)),
    ),
)
