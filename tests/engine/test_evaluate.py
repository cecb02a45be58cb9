"""Evaluation counts what `segment` labels."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

pytest.importorskip("PIL")

from tiny_data import TinyModel, make_dataset, read

from fastseg.engine.evaluate import evaluate


def counted(model: TinyModel, root: Path, working_size: int | None) -> numpy.ndarray:
    """The matrix from label maps of whole images."""
    split = read(root, "val")
    matrix = numpy.zeros((4, 3), dtype=numpy.int64)
    for index in range(len(split)):
        image, label = split.load(index)
        predicted = model.segment(image, working_size).numpy()
        truth = numpy.where(label == 255, 3, label)
        numpy.add.at(matrix, (truth.ravel(), predicted.ravel()), 1)
    return matrix


@pytest.mark.parametrize("working_size", [None, 40, 100])
def test_counts_are_those_of_segment(tmp_path: Path, working_size: int | None) -> None:
    root = make_dataset(tmp_path, {"val": 5})
    make_dataset(tmp_path / "other", {"val": 2}, size=(40, 50))
    for folder in ("images", "labels"):  # images of another size in between
        source = tmp_path / "other" / folder / "val" / "1.png"
        source.rename(root / folder / "val" / "2a.png")
    model = TinyModel().eval()
    split = read(root, "val")
    seen = []
    matrix = evaluate(
        model, split, working_size=working_size, void_row=True, batch_size=4,
        progress=lambda *numbers: seen.append(numbers),
    )  # fmt: skip
    assert seen == [(3, 6), (4, 6), (6, 6)]
    expected = torch.from_numpy(counted(model, root, working_size))
    assert matrix.sum() == expected.sum() == 5 * 48 * 64 + 40 * 50
    # Batches of other sizes may round a tie of two logits differently.
    assert (matrix - expected).abs().sum() <= 4
    without = evaluate(model, split, working_size=working_size)
    assert (without - expected[:3]).abs().sum() <= 4
    assert matrix.dtype is torch.int64


def test_leaves_the_model_in_eval_mode(tmp_path: Path) -> None:
    model = TinyModel().train()
    evaluate(model, read(make_dataset(tmp_path, {"val": 1}), "val"))
    assert not model.training
