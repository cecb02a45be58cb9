"""Panoptic quality against a count with one mask per segment, and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fastseg.metrics import PanopticQuality

CLASSES = 4


def random_segments(generator: torch.Generator, void: bool) -> tuple[torch.Tensor, list[Any]]:
    """Patches of a few ids; 0 is void where `void` is set."""

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator)

    coarse = draw(7, 3, 4) + (0 if void else 1)
    ids = coarse.repeat_interleave(4, 0).repeat_interleave(5, 1) * 10
    present = [i for i in ids.unique().tolist() if i > 0]
    classes = draw(CLASSES, len(present)).tolist()
    crowds = draw(4, len(present)).tolist()
    return ids, [
        {"id": i, "label_id": c, "iscrowd": int(void and crowd == 0)}
        for i, c, crowd in zip(present, classes, crowds, strict=True)
    ]


def by_masks(images: list[Any]) -> torch.Tensor:
    """[IoU, matches, wrong, missed] per class, segment by segment."""
    sums = torch.zeros(4, CLASSES, dtype=torch.float64)
    for prediction, predicted, truth, true in images:
        void = ~torch.isin(truth, torch.tensor([s["id"] for s in true], dtype=truth.dtype))
        found, matched = set(), set()
        for s in true:
            for o in predicted:
                t, p = truth == s["id"], prediction == o["id"]
                same = s["label_id"] == o["label_id"] and not s["iscrowd"]
                iou = float((t & p).sum()) / float((t | (p & ~void)).sum())
                if same and iou > 0.5:
                    found.add(o["id"])
                    matched.add(s["id"])
                    sums[0, s["label_id"]] += iou
                    sums[1, s["label_id"]] += 1
        for o in predicted:
            p = prediction == o["id"]
            excused = void.clone()
            for s in true:
                if s["iscrowd"] and s["label_id"] == o["label_id"]:
                    excused |= truth == s["id"]
            if o["id"] not in found and (p & excused).sum() * 2 <= p.sum():
                sums[2, o["label_id"]] += 1
        for s in true:
            if not s["iscrowd"] and s["id"] not in matched:
                sums[3, s["label_id"]] += 1
    return sums


def test_random_maps_against_masks():
    generator = torch.Generator().manual_seed(0)
    quality, images = PanopticQuality(CLASSES, things=(1, 3)), []
    for _ in range(60):
        truth, true = random_segments(generator, True)
        prediction, predicted = random_segments(generator, False)
        keep = torch.rand(truth.shape, generator=generator) < 0.9
        right = torch.isin(truth, torch.tensor([10, 20, 30, 40])) & keep  # others are at random
        prediction = torch.where(right, truth + 1, prediction)
        ids = set(prediction.unique().tolist())
        predicted = [s for s in predicted if s["id"] in ids]
        predicted += [{**s, "id": s["id"] + 1} for s in true if s["id"] + 1 in ids]
        images.append((prediction, predicted, truth, true))
        quality.add(*images[-1])
    iou, matched, wrong, missed = by_masks(images)
    assert min(matched.min(), wrong.min(), missed.min()) > 0
    scores = quality.scores()
    torch.testing.assert_close(scores.rq, matched / (matched + wrong / 2 + missed / 2))
    torch.testing.assert_close(scores.sq, iou / matched)
    torch.testing.assert_close(scores.pq, scores.sq * scores.rq)
    assert scores.mpq == pytest.approx(float(scores.pq.mean()))
    assert scores.things == pytest.approx(float(scores.pq[[1, 3]].mean()))
    assert scores.stuff == pytest.approx(float(scores.pq[[0, 2]].mean()))


def test_by_hand():
    """Three of four cells right: IoU 3/4. One object missed, one invented, one class absent."""
    truth = torch.tensor([[1, 1, 1, 1], [2, 2, 0, 0]])
    prediction = torch.tensor([[7, 7, 7, 8], [9, 0, 0, 0]])
    quality = PanopticQuality(3, things=[1])
    true = [{"id": 1, "label_id": 0}, {"id": 2, "label_id": 1}]
    predicted = [{"id": 7, "label_id": 0}, {"id": 8, "label_id": 1}, {"id": 9, "label_id": 1}]
    quality.add(prediction, predicted, truth, true)
    scores = quality.scores()
    assert scores.pq[:2].tolist() == [0.75, 0.0] and math.isnan(scores.pq[2])
    assert scores.sq[:2].tolist() == [0.75, 0.0] and scores.rq[:2].tolist() == [1.0, 0.0]
    assert (scores.mpq, scores.things, scores.stuff) == (0.375, 0.0, 0.75)


def test_an_intersection_of_one_half_is_no_match():
    truth, prediction = torch.tensor([[1, 1]]), torch.tensor([[1, 0]])
    quality = PanopticQuality(1)
    quality.add(prediction, [{"id": 1, "label_id": 0}], truth, [{"id": 1, "label_id": 0}])
    assert quality.scores().mpq == 0.0


def test_void_and_crowds_excuse_predictions():
    truth = torch.tensor([[0, 0, 5, 5, 6, 6]])
    prediction = torch.tensor([[1, 1, 2, 2, 3, 3]])
    true = [{"id": 5, "label_id": 0, "iscrowd": 1}, {"id": 6, "label_id": 1, "iscrowd": 1}]
    predicted = [{"id": i, "label_id": 0} for i in (1, 2, 3)]
    quality = PanopticQuality(2)
    quality.add(prediction, predicted, truth, true)
    scores = quality.scores()
    assert scores.rq[0] == 0.0 and math.isnan(scores.rq[1])  # the one on another class's crowd


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"prediction": torch.zeros(2, 3)}, TypeError, "prediction has dtype"),
        ({"prediction": torch.zeros(3, 2).int()}, ValueError, "prediction has shape"),
        (
            {"true": [{"id": 4, "label_id": 0}]},
            ValueError,
            "true has segment 4, which has no pixel",
        ),
        ({"true": [{"id": 1, "label_id": 2}]}, ValueError, "of class 2, expected 0 to 1"),
        (
            {"true": [{"id": 1, "label_id": 0}, {"id": 1, "label_id": 1}]},
            ValueError,
            "of class 0 and of class 1",
        ),
    ],
)
def test_wrong_arguments_are_named(changed: Any, error: Any, match: str):
    ids = torch.ones(2, 3, dtype=torch.int32)
    segments = [{"id": 1, "label_id": 0}]
    arguments = {"prediction": ids, "predicted": segments, "truth": ids, "true": segments}
    with pytest.raises(error, match=match):
        PanopticQuality(2).add(**{**arguments, **changed})


def test_wrong_classes_are_named():
    with pytest.raises(ValueError, match="classes is 0"):
        PanopticQuality(0)
    with pytest.raises(ValueError, match="things has 2"):
        PanopticQuality(2, things=[1, 2])
