"""Inputs for the tests and benchmarks of mask_argmax."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...dtypes import label_dtype
from ...testing.compare import assert_labels_as_accurate
from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import mask_argmax


def _scores(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    size: Any = None,
    crop: Any = None,
    out_size: Any = None,
) -> torch.Tensor:
    def resized(x: torch.Tensor, size: Any) -> torch.Tensor:
        size = (size, size) if isinstance(size, int) else size
        if size is None or tuple(x.shape[2:]) == tuple(size):
            return x
        return F.interpolate(x, size, mode="bilinear", align_corners=False)

    x = resized(masks, size).sigmoid()
    crop = (crop, crop) if isinstance(crop, int) else crop
    scores = torch.einsum("nqc,nqhw->nchw", class_probs.to(x.dtype), x)
    if crop is not None:
        scores = scores[:, :, : crop[0], : crop[1]]
    return resized(scores, out_size)


def _peer(masks: torch.Tensor, class_probs: torch.Tensor, **sizes: Any) -> torch.Tensor:
    scores = _scores(masks, class_probs, **sizes)
    return scores.argmax(1).to(label_dtype(class_probs.shape[2]))


def _compare(inputs: dict[str, Any], labels: torch.Tensor) -> None:
    double = {k: v.double() if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    assert labels.dtype == label_dtype(inputs["class_probs"].shape[2])
    assert_labels_as_accurate(labels, _scores(**inputs), _scores(**double))


def _sample(
    why: str, shape: tuple[int, ...], classes: int, layout: str = "contiguous", **sizes: Any
) -> Sample:
    def inputs(make: Maker) -> dict[str, Any]:
        masks = make.map(*shape, layout=layout, scale=4.0)
        probabilities = make.tensor(*shape[:2], classes + 1, scale=2.0).softmax(2)[..., :-1]
        return {"masks": masks, "class_probs": probabilities, **sizes}

    return Sample(why, inputs)


def _with(value: float, where: str) -> Any:
    def inputs(make: Maker) -> dict[str, Any]:
        masks = make.map(2, 5, 7, 6)
        probabilities = make.tensor(2, 5, 9).softmax(2)
        if where == "masks":
            masks[0, 2, 3, 3] = masks[1, 4, 1, 1] = value
        else:
            probabilities[0, 2, 4] = value
        return {"masks": masks, "class_probs": probabilities, "size": (23, 29)}

    return inputs


def _equal(make: Maker) -> dict[str, Any]:
    """Every class has the same probabilities."""
    probabilities = make.tensor(1, 6, 1).sigmoid().expand(1, 6, 21).contiguous()
    return {"masks": make.map(1, 6, 5, 5), "class_probs": probabilities, "size": (11, 20)}


def _error(why: str, error: type[Exception], match: str, **changed: Any) -> ErrorSample:
    def inputs(make: Maker) -> dict[str, Any]:
        values = {"masks": make.tensor(1, 4, 5, 6), "class_probs": make.tensor(1, 4, 3)}
        return {**values, **{k: v(make) if callable(v) else v for k, v in changed.items()}}

    return ErrorSample(why, inputs, error, match)


def _workload(
    name: str, shape: tuple[int, ...], classes: int, size: Any, out_size: Any = None
) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        n, queries, height, width = shape
        coarse = make.tensor(n, queries, height // 16, width // 16, scale=6.0)
        masks = F.interpolate(coarse.float(), shape[2:], mode="bicubic").to(coarse)
        probabilities = make.tensor(n, queries, classes + 1, scale=3.0).softmax(2)[..., :-1]
        return {
            "masks": masks.contiguous(memory_format=memory_format),
            "class_probs": probabilities.contiguous(),
            "size": size,
            "out_size": out_size,
        }

    height, width = out_size or size or shape[2:]
    pixels = shape[0] * height * width

    def moved(inputs: dict[str, Any]) -> int:
        return inputs["masks"].numel() * inputs["masks"].element_size() + pixels

    flops = pixels * shape[1] * (2 * classes + 10)
    return Workload(name, inputs, moved, lambda _: flops, ("forward",))


SAMPLES = OpSamples(
    function=mask_argmax,
    peer=_peer,
    samples=(
        _sample("official order without padding", (2, 9, 6, 7), 19, size=(24, 28)),
        _sample(
            "official order: crop, then the image's size",
            (1, 7, 8, 9),
            13,
            size=(32, 36),
            crop=(29, 31),
            out_size=(47, 50),
        ),
        _sample("scores of the masks' size are resized", (2, 5, 6, 7), 8, out_size=(25, 27)),
        _sample("masks and scores resized", (1, 6, 8, 8), 7, size=20, out_size=(33, 75)),
        _sample("scores are made smaller", (1, 6, 9, 8), 5, size=(36, 32), out_size=(11, 13)),
        _sample("crop alone", (1, 4, 7, 9), 6, crop=(5, 3)),
        _sample("nothing is resized, channels_last", (2, 6, 9, 7), 5, "channels_last"),
        _sample("strided masks", (1, 7, 6, 5), 20, "strided", size=13),
        _sample("one query, one class, one pixel", (1, 1, 1, 1), 1, size=3),
        _sample("classes that fill no group, several tiles", (1, 3, 4, 40), 11, size=(9, 150)),
        _sample("more classes than uint8 holds", (1, 5, 3, 4), 300, size=(7, 8)),
        Sample("a mask with NaN", _with(float("nan"), "masks")),
        Sample("a mask with infinity", _with(float("inf"), "masks")),
        Sample("a probability that is NaN", _with(float("nan"), "class_probs")),
        Sample("equal scores: the first class wins", _equal),
        _sample("batch 0", (0, 3, 5, 5), 4, size=(10, 10)),
    ),
    errors=(
        _error("rank of masks", ValueError, "masks has shape", masks=lambda m: m.tensor(4, 5, 6)),
        _error("no query", ValueError, "at least 1", masks=lambda m: m.tensor(1, 0, 5, 6)),
        _error("flat", ValueError, "class_probs has", class_probs=lambda m: m.tensor(4, 3)),
        _error("queries", ValueError, "class_probs has", class_probs=lambda m: m.tensor(1, 5, 3)),
        _error("no class", ValueError, "C >= 1", class_probs=lambda m: m.tensor(1, 4, 0)),
        _error("size 0", ValueError, "size is", size=0),
        _error("three sizes", ValueError, "size has 3", size=(4, 4, 4)),
        _error("crop too large", ValueError, "at most size", size=(10, 10), crop=(11, 4)),
        _error("negative crop", ValueError, "crop is", crop=(-1, 4)),
        _error("no output", ValueError, "out_size is", out_size=(3, 0)),
        _error("fractional output", TypeError, "size is", out_size=(3, 2.5)),
        _error(
            "dtype",
            TypeError,
            "class_probs has",
            class_probs=lambda m: m.labels(1, 4, 3, classes=2),
        ),
        _error(
            "integer masks", TypeError, "masks has", masks=lambda m: m.labels(1, 4, 5, 6, classes=2)
        ),
    ),
    compare=_compare,
    cpu_workloads=(
        _workload("N1 Q100 K150 128->512", (1, 100, 128, 128), 150, (512, 512)),
        _workload("N1 Q100 K19 256x512->1024x2048", (1, 100, 256, 512), 19, (1024, 2048)),
        _workload("N1 Q100 K150 128->384->512", (1, 100, 128, 128), 150, (384, 384), (512, 512)),
    ),
    gpu_workloads=(_workload("W19a N16 Q100 K150 128->512", (16, 100, 128, 128), 150, (512, 512)),),
)
