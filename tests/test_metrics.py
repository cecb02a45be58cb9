"""Scores from confusion matrices, against published numbers and the loop-written definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from fastseg.metrics import scores


def test_published_numbers_of_camvid(shared_data: Path) -> None:
    """ESPNet on CamVid: mIoU 55.6 with void as false positive, class average 68.3."""
    expected = json.loads((shared_data / "camvid" / "expected_metrics.json").read_text())
    cases = {name: case for name, case in expected.items() if isinstance(case, dict)}
    assert len(cases) == 4
    for name, case in cases.items():
        matrix = torch.tensor(case["confusion_rows_gt"])
        ignored, counted = scores(matrix, 11), scores(matrix, 11, void="false-positive")
        assert counted.miou == pytest.approx(case["mIoU11_void_pixels_as_FP"], abs=1e-12), name
        assert ignored.miou == pytest.approx(case["mIoU11_void_ignored"], abs=1e-12), name
        assert ignored.macc == pytest.approx(case["class_avg_recall11"], abs=1e-12), name
        assert ignored.aacc == pytest.approx(case["pixel_acc_void_ignored"], abs=1e-12), name
        assert ignored.iou.tolist() == pytest.approx(case["iou11_void_ignored"], abs=5e-5), name
        assert (counted.macc, counted.aacc) == (ignored.macc, ignored.aacc)
    original = torch.tensor(cases["png_original_test"]["confusion_rows_gt"])
    assert round(scores(original, 11, void="false-positive").miou, 4) == 0.5565
    assert round(scores(original, 11).miou, 4) == 0.5717
    assert round(scores(original, 11).macc, 3) == 0.683
    assert cases["png_original_test"]["mIoU11_void_pixels_as_FP"] != pytest.approx(
        scores(original, 11).miou, abs=1e-3
    )


def test_definitions_by_loops() -> None:
    truth = torch.randint(0, 4, (2000,))
    predicted = torch.where(torch.rand(2000) < 0.6, truth, torch.randint(0, 4, (2000,)))
    matrix = torch.zeros(4, 4, dtype=torch.int64)
    for t, p in zip(truth.tolist(), predicted.tolist(), strict=True):
        matrix[t, p] += 1
    result = scores(matrix)
    for c in range(4):
        t, p = truth == c, predicted == c
        assert result.iou[c] == pytest.approx(((t & p).sum() / (t | p).sum()).item())
        assert result.accuracy[c] == pytest.approx(((t & p).sum() / t.sum()).item())
        assert result.dice[c] == pytest.approx((2 * (t & p).sum() / (t.sum() + p.sum())).item())
        # Source: Dice is a function of IoU per class (but not of their means).
        assert result.iou[c] == pytest.approx((result.dice[c] / (2 - result.dice[c])).item())
    assert result.miou == pytest.approx(result.iou.mean().item())
    assert result.mdice == pytest.approx(result.dice.mean().item())
    assert result.aacc == pytest.approx((truth == predicted).double().mean().item())


def test_absent_classes() -> None:
    """Class 1 is nowhere, class 2 is only predicted: the first has no IoU, the second has 0."""
    matrix = torch.tensor([[6, 0, 2], [0, 0, 0], [0, 0, 0]])
    result = scores(matrix)
    assert result.iou.tolist() == pytest.approx([0.75, math.nan, 0.0], nan_ok=True)
    assert result.accuracy.tolist() == pytest.approx([0.75, math.nan, math.nan], nan_ok=True)
    assert result.miou == pytest.approx(0.375)  # mmseg, HF
    assert result.macc == pytest.approx(0.75)
    as_zero = scores(matrix, absent="zero")
    assert as_zero.miou == pytest.approx(0.25)  # semseg
    assert as_zero.macc == pytest.approx(0.25)
    assert result.as_json(("a", "b", "c"))["classes"][1] == {
        "name": "b", "IoU": None, "Acc": None, "Dice": None,
    }  # fmt: skip
    assert math.isnan(scores(torch.zeros(2, 2, dtype=torch.int64)).miou)


def test_void_rows_and_columns() -> None:
    square = torch.tensor([[5, 1], [2, 4]])
    with_row = torch.tensor([[5, 1], [2, 4], [3, 1]])
    assert torch.equal(scores(with_row).iou, scores(square).iou)
    counted = scores(with_row, void="false-positive")
    assert counted.iou.tolist() == pytest.approx([5 / 11, 4 / 8])
    # Pixels predicted as void are missed in both conventions.
    both = torch.tensor([[5, 1, 4], [2, 4, 0], [3, 1, 9]])
    assert scores(both, 2).iou.tolist() == pytest.approx([5 / 12, 4 / 7])
    assert scores(both, 2).accuracy.tolist() == pytest.approx([0.5, 4 / 6])


def test_counts_beyond_float_precision() -> None:
    huge = 2**53 + 1
    assert scores(torch.tensor([[huge, 0], [0, 1]])).iou.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("matrix", "options", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), {}, "shape"),
        (torch.zeros(4, 4, dtype=torch.int64), {"classes": 2}, "C = 2"),
        (torch.zeros(4, dtype=torch.int64), {}, "shape"),
        (torch.zeros(2, 2, dtype=torch.int64), {"void": "no"}, "void"),
        (torch.zeros(2, 2, dtype=torch.int64), {"absent": "no"}, "absent"),
    ],
)
def test_errors(matrix: torch.Tensor, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scores(matrix, **options)
    with pytest.raises(TypeError, match="float"):
        scores(torch.zeros(2, 2))
