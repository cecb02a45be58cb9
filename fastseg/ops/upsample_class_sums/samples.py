"""Inputs for the tests and benchmarks of upsample_class_sums."""

from __future__ import annotations

from typing import Any

import torch

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import upsample_class_sums
from .peer import peer
from .sums import ONLY_LABELS, ONLY_SHARES, ONLY_SIGMOID

_REGION = ("probability", "overlap", "target")
_COMMON = (*_REGION, "count", "square", "loss")
_SIGMOID = (*_COMMON, "every_loss", "focal", "focal_weight", *sorted(ONLY_SIGMOID))
_LABELS = (*_COMMON, "every_loss", *sorted(ONLY_LABELS))
_SHARES = (*_COMMON, "every_loss", *sorted(ONLY_SHARES))


def _labels(
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
        binary = shape[1] == 1 and arguments.get("activation") == "sigmoid"
        classes = 2 if binary else shape[1]
        target = make.labels(shape[0], *size, classes=classes, ignored=ignored, ignore_index=255)
        weight = make.tensor(shape[0], *size).abs() if weighted else None
        return {
            "logits": logits,
            "target": target.to(dtype),
            "pixel_weight": weight,
            "ignore_index": 255,
            **arguments,
        }

    return inputs


def _shares(
    shape: tuple[int, ...],
    size: tuple[int, int],
    dtype: torch.dtype | None = None,
    layout: str = "contiguous",
    weighted: bool = False,
    **arguments: Any,
) -> Any:
    """Targets [N, C, H, W]: with a dtype 0 and 1, and with a sigmoid some ignored; else shares."""

    def inputs(make: Maker) -> dict[str, Any]:
        logits = make.map(*shape, layout=layout, scale=2.0)
        full = (*shape[:2], *size)
        target = make.tensor(*full).abs().frac()
        if dtype is not None:
            target = make.labels(*full, classes=2, ignored=0.1, ignore_index=255).to(dtype)
        weight = make.tensor(shape[0], *size).abs() if weighted else None
        values = {"logits": logits, "target": target, "pixel_weight": weight, **arguments}
        return {**values, "ignore_index": 255}

    return inputs


def _teacher(
    shape: tuple[int, ...], teacher: tuple[int, int], size: tuple[int, int], **arguments: Any
) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        logits, target = make.map(*shape), make.map(*shape[:2], *teacher, scale=2.0)
        return {"logits": logits, "target": target, "size": size, "sums": _SHARES, **arguments}

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
    name: str, shape: tuple[int, ...], size: tuple[int, int], activation: str, dense: bool = False
) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        logits = make.map(*shape).contiguous(memory_format=memory_format)
        full = (*shape[:2], *size) if dense else (shape[0], *size)
        classes = 2 if dense or shape[1] == 1 else shape[1]
        target = make.labels(*full, classes=classes)
        sums = [*_REGION, "loss", *(["negative_loss"] if activation == "sigmoid" else [])]
        target = target.to(torch.uint8) if dense else target
        return {"logits": logits, "target": target, "activation": activation, "sums": sums}

    pixels = shape[0] * size[0] * size[1]

    def moved(inputs: dict[str, Any]) -> int:
        return inputs["logits"].nbytes + inputs["target"].nbytes

    # Per pixel and class: a blend of two rows (3), an exp2 (14) and two sums.
    return Workload(name, inputs, moved, lambda _: 20 * pixels * shape[1])


_SAMPLES: tuple[Sample, ...] = (
    Sample("integer scale", _labels((2, 5, 6, 7), (24, 28))),
    Sample("all sums, corners aligned", _labels((1, 21, 9, 9), (33, 33), sums=_LABELS,
           align_corners=True)),
    Sample("cross-entropy, channels_last", _labels((2, 19, 5, 9), (17, 35), "channels_last",
           sums=("loss", "target"))),
    Sample("pixel weights, uint8 target, all sums", _labels((2, 6, 8, 5), (19, 21),
           dtype=torch.uint8, weighted=True, sums=_LABELS)),
    Sample("focal, reduced threshold, int32 target", _labels((1, 4, 6, 6), (24, 24),
           dtype=torch.int32, reduced_threshold=0.3, gamma=1.5, sums=("focal", "focal_weight"))),
    Sample("down, strided", _labels((2, 3, 20, 30), (7, 9), "strided", sums=_COMMON)),
    Sample("size kept", _labels((1, 4, 6, 9), (6, 9))),
    Sample("from one pixel", _labels((3, 8, 1, 1), (5, 6))),
    Sample("one class of softmax", _labels((1, 1, 3, 3), (7, 7), sums=_COMMON)),
    Sample("1000 classes", _labels((1, 1000, 3, 3), (6, 7))),
    Sample("more rows between two source rows than go together", _labels((2, 5, 3, 4), (61, 29),
           weighted=True, align_corners=True, sums=_LABELS)),
    Sample("several bands of rows", _labels((1, 9, 70, 6), (140, 12), sums=_COMMON)),
    Sample("every pixel ignored", _labels((1, 3, 4, 4), (8, 8), ignored=1.0, sums=_LABELS)),
    Sample("confident logits", _labels((1, 5, 6, 6), (24, 24), scale=30.0, sums=_COMMON)),
    Sample("softmax bound far above the maximum", _far_apart),
    Sample("batch 0", _labels((0, 3, 4, 4), (8, 8))),
    Sample("sigmoid, binary labels, all sums", _labels((2, 1, 7, 9), (28, 41), activation="sigmoid",
           sums=_SIGMOID)),
    Sample("sigmoid, one class against the others", _labels((2, 5, 7, 6), (28, 24), "channels_last",
           activation="sigmoid", sums=(*_REGION, "loss", "negative_loss"))),
    Sample("sigmoid, wide, confident", _labels((1, 2, 3, 150), (5, 600), activation="sigmoid",
           scale=20.0, sums=(*_REGION, "loss", "negative_loss"))),
    Sample("sigmoid, uint8 masks, some ignored", _shares((2, 4, 6, 5), (23, 19), torch.uint8,
           activation="sigmoid", sums=(*_REGION, "loss", "negative_loss"))),
    Sample("sigmoid, int64 masks, weights, all sums, gamma 1.5", _shares((1, 3, 5, 6), (21, 23),
           torch.int64, "strided", True, gamma=1.5, reduced_threshold=0.5, activation="sigmoid",
           sums=_SIGMOID)),
    Sample("sigmoid, shares", _shares((1, 4, 5, 6), (15, 18), activation="sigmoid", sums=(*_COMMON,
           "minimum", "negative_loss"))),
    Sample("softmax, shares, all sums", _shares((2, 6, 5, 4), (19, 17), sums=_SHARES)),
    Sample("softmax, shares, weights", _shares((1, 5, 7, 3), (22, 31), None, "channels_last", True,
           sums=_SHARES)),
    Sample("teacher of the same size", _teacher((2, 7, 5, 6), (5, 6), (20, 24))),
    Sample("teacher of another size, corners aligned", _teacher((1, 4, 6, 5), (9, 4), (31, 22),
           align_corners=True)),
)  # fmt: skip

_ERRORS: tuple[ErrorSample, ...] = (
    _error("class too large", ValueError, r"target is 3 at \(0, 0, 0\)", from_values=True,
           target=torch.full((1, 8, 8), 3)),
    _error("binary label too large", ValueError, "allowed are 0 to 1", from_values=True,
           activation="sigmoid", logits=torch.zeros(1, 1, 4, 4), target=torch.full((1, 8, 8), 2)),
    _error("mask of 0 and 255", ValueError, r"target is 255 at \(0, 2, 0, 0\)", from_values=True,
           activation="sigmoid", target=torch.tensor([0, 1, 255], dtype=torch.uint8).view(1, 3, 1,
           1).expand(1, 3, 8, 8).contiguous()),
    _error("probabilities as labels", TypeError, "class indices", target=torch.rand(1, 8, 8)),
    _error("complex masks", TypeError, "target has dtype", target=torch.zeros(1, 3, 8, 8,
           dtype=torch.complex64)),
    _error("rank of target", ValueError, "target has shape", target=torch.zeros(8, 8,
           dtype=torch.int64)),
    _error("classes of target", ValueError, "target has shape", target=torch.zeros(1, 2, 8, 8)),
    _error("batch size of target", ValueError, "batch size 2", target=torch.zeros(2, 8, 8,
           dtype=torch.int64)),
    _error("empty target", ValueError, "at least 1", target=torch.zeros(1, 3, 8, 0)),
    _error("rank of logits", ValueError, "logits has shape", logits=torch.zeros(3, 4, 4)),
    _error("unknown sum", ValueError, "sums has 'tp'", sums=("tp",)),
    _error("no sum", ValueError, "sums is empty", sums=()),
    _error("a sum twice", ValueError, "occurs twice", sums=("count", "count")),
    _error("a sum of the sigmoid", ValueError, "which softmax does not have",
           sums=("negative_loss",)),
    _error("a sum of the softmax", ValueError, "which sigmoid does not have",
           sums=("negative_entropy",), activation="sigmoid", target=torch.rand(1, 3, 8, 8)),
    _error("entropy of labels", ValueError, "do not have", sums=("negative_entropy",)),
    _error("focal of shares", ValueError, "needs a target", sums=("focal",), target=torch.rand(1, 3,
           8, 8)),
    _error("activation", ValueError, "activation is 'tanh'", activation="tanh"),
    _error("sigmoid of a teacher", ValueError, "need 'softmax'", activation="sigmoid",
           target=torch.zeros(1, 3, 2, 2), size=(8, 8)),
    _error("size of a teacher", ValueError, "size has 3 numbers", target=torch.zeros(1, 3, 2, 2),
           size=(8, 8, 8)),
    _error("shape of pixel_weight", ValueError, "pixel_weight has shape", pixel_weight=torch.ones(1,
           4, 4)),
    _error("integer pixel_weight", TypeError, "pixel_weight has dtype", pixel_weight=torch.ones(1,
           8, 8, dtype=torch.int64)),
    _error("negative gamma", ValueError, "gamma is -1.0", gamma=-1.0),
    _error("NaN gamma", ValueError, "gamma is nan", gamma=float("nan")),
    _error("threshold", ValueError, "reduced_threshold is 2.0", reduced_threshold=2.0),
)  # fmt: skip


SAMPLES = OpSamples(
    function=upsample_class_sums,
    peer=peer,
    samples=_SAMPLES,
    errors=_ERRORS,
    differentiable=("logits",),
    double_backward=True,
    cpu_workloads=(
        _workload("CE + Dice N4 C21 129->513", (4, 21, 129, 129), (513, 513), "softmax"),
        _workload("CE + Dice N1 C150 128->512", (1, 150, 128, 128), (512, 512), "softmax"),
        _workload("BCE + Dice N8 C1 128->512", (8, 1, 128, 128), (512, 512), "sigmoid"),
        _workload(
            "BCE + Dice N4 C21 129->513 masks", (4, 21, 129, 129), (513, 513), "sigmoid", True
        ),
    ),
    gpu_workloads=(
        _workload("CE + Dice N8 C19 97->769", (8, 19, 97, 97), (769, 769), "softmax"),
        _workload("CE + Dice N16 C150 128->512", (16, 150, 128, 128), (512, 512), "softmax"),
    ),
)
