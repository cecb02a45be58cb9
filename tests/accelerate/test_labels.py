"""Losses of transformers' models: what they take and refuse is as without fastseg."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from accelerate_cases import CASES, CLASSES, images, make

import fastseg

NAMES = [c.name for c in CASES if c.library == "transformers"]


def _target(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.randint(0, CLASSES, shape).to(dtype)


def _with(value: int) -> torch.Tensor:
    target = _target(2, 64, 64)
    target[0, 3, 5] = value
    return target


LABELS = {
    "as-the-images": _target(2, 64, 64),
    "with-ignored": _with(255),
    "half-the-size": _target(2, 32, 32),
    "twice-the-size": _target(2, 128, 128),
    "another-width": _target(2, 64, 60),
    "logits-size": _target(2, 16, 16),
    "one-pixel": _target(2, 1, 1),
    "empty": _target(2, 0, 0),
    "another-batch": _target(1, 64, 64),
    "with-channel": _target(2, 1, 64, 64),
    "flat": _target(2, 4096),
    "int32": _target(2, 64, 64, dtype=torch.int32),
    "uint8": _target(2, 64, 64, dtype=torch.uint8),
    "bool": _target(2, 64, 64, dtype=torch.bool),
    "float": _target(2, 64, 64, dtype=torch.float32),
    "probabilities": torch.rand(2, CLASSES, 64, 64),
    "above-range": _with(CLASSES),
    "below-range": _with(-1),
    "far-below-range": _with(-100),
    "not-contiguous": _target(2, 64, 128)[:, :, ::2],
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", NAMES)
def test_labels_as_without_fastseg(peers: Any, name: str, labels: str, training: bool) -> None:
    theirs = make(next(c for c in CASES if c.name == name), peers).train(training)
    ours = copy.deepcopy(theirs)
    fastseg.accelerate(ours, image_size=None)
    x = images(torch.float32)
    results: list[Any] = []
    for model in (theirs, ours):
        try:
            results.append(model(x, labels=LABELS[labels]).loss)
        except Exception as error:
            results.append(error)
    expected, found = results
    if isinstance(expected, Exception):
        assert type(found) is type(expected), found
    else:
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 0])
def test_numbers_of_labels_that_are_refused(peers: Any, name: str, count: int) -> None:
    theirs = make(next(c for c in CASES if c.name == name), peers)
    ours = copy.deepcopy(theirs)
    fastseg.accelerate(ours, image_size=None)
    x, target = images(torch.float32), torch.zeros(2, 64, 64, dtype=torch.int64)
    results: list[Any] = []
    for model in (theirs, ours):
        model.config.num_labels = count
        try:
            results.append(float(model(x, labels=target).loss.detach()))
        except Exception as error:
            results.append((type(error), str(error)))
    if isinstance(results[0], float):
        results[0] = pytest.approx(results[0])
    assert results[1] == results[0]
