"""Panoptic quality: how well predicted segments match those of the truth."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

Segment = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class PanopticScores:
    """Scores of C classes, each from 0 to 1, float64; NaN for classes with no segment.

    Attributes:
        pq: panoptic quality per class [C], sq * rq.
        sq: mean intersection over union of the matched segments per class [C], 0 without any.
        rq: recognition quality per class [C], the F1 score of the matches.
        mpq, msq, mrq: means over the classes that are not NaN.
        things, stuff: mean pq over the classes of objects, and over the others.
    """

    pq: torch.Tensor
    sq: torch.Tensor
    rq: torch.Tensor
    mpq: float
    msq: float
    mrq: float
    things: float
    stuff: float


class PanopticQuality:
    """Panoptic quality of a data set, image by image, as COCO counts it.

    A predicted and a true segment of one class match if their intersection over union is above one
    half; pixels that are void in the truth count for neither. Predictions that lie for more
    than half on void or on crowds of their class are no mistakes, and crowds are not looked for.

    Args:
        classes: number of classes C, at least 1.
        things: classes of countable objects, each from 0 to C - 1; the others are stuff.

    Raises:
        ValueError: a number of classes below 1, or things outside of them.

    Source: Kirillov et al., Panoptic segmentation, CVPR 2019, section 4.
    """

    def __init__(self, classes: int, things: Collection[int] = ()) -> None:
        if classes < 1:
            raise ValueError(f"classes is {classes}, expected at least 1")
        if bad := sorted(t for t in things if not 0 <= t < classes):
            raise ValueError(f"things has {bad[0]}, expected classes from 0 to {classes - 1}")
        self._things = torch.zeros(classes, dtype=torch.bool)
        self._things[list(things)] = True
        # Sum of IoU, matches, segments found that are none, segments that were missed.
        self._sums = torch.zeros(4, classes, dtype=torch.float64)

    def add(
        self,
        prediction: torch.Tensor,
        predicted: Sequence[Segment],
        truth: torch.Tensor,
        true: Sequence[Segment],
    ) -> None:
        """Counts one image.

        Args:
            prediction: ids of segments [H, W], of any integer dtype; ids that are not in
                `predicted` are void.
            predicted: the segments, as fastseg.predict_panoptic lists them: "id" and "label_id".
            truth: ids [H, W], as `prediction`.
            true: the segments: "id", "label_id" and perhaps "iscrowd".

        Raises:
            ValueError: maps of different shapes; a segment without pixels, with a class outside of
                0 to C - 1, or listed with two classes.
            TypeError: maps that are not of integers.
        """
        for name, ids in (("prediction", prediction), ("truth", truth)):
            if ids.is_floating_point() or ids.is_complex() or ids.dtype is torch.bool:
                raise TypeError(f"{name} has dtype {ids.dtype}, expected ids of segments, integers")
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction has shape {tuple(prediction.shape)}, expected {tuple(truth.shape)} "
                "as truth"
            )
        label_of = self._labels("predicted", prediction, predicted)
        true_label_of = self._labels("true", truth, true)
        crowds = {s["id"] for s in true if s.get("iscrowd")}
        pairs = torch.stack([truth.flatten().long(), prediction.flatten().long()])
        unique, counts = pairs.unique(dim=1, return_counts=True)
        area: Counter[int] = Counter()
        true_area: Counter[int] = Counter()
        excused: Counter[int] = Counter()  # pixels of a prediction on void or crowds of its class
        void: Counter[int] = Counter()
        shared = []
        for t, p, n in zip(*unique.tolist(), counts.tolist(), strict=True):
            area[p] += n
            true_area[t] += n
            if t not in true_label_of:
                void[p] += n
                excused[p] += n
            elif p in label_of and true_label_of[t] == label_of[p]:
                if t in crowds:
                    excused[p] += n
                else:
                    shared.append((t, p, n))
        matched, found = set(), set()
        for t, p, n in shared:
            iou = n / (true_area[t] + area[p] - n - void[p])
            if iou > 0.5:
                matched.add(t)
                found.add(p)
                self._sums[0, label_of[p]] += iou
                self._sums[1, label_of[p]] += 1
        for p in label_of.keys() - found:
            if excused[p] / area[p] <= 0.5:
                self._sums[2, label_of[p]] += 1
        for t in true_label_of.keys() - matched - crowds:
            self._sums[3, true_label_of[t]] += 1

    def scores(self) -> PanopticScores:
        """The scores of the images so far."""
        iou, matched, wrong, missed = self._sums
        segments = matched + wrong / 2 + missed / 2
        absent = segments == 0
        rq = (matched / segments).masked_fill(absent, torch.nan)
        sq = torch.where(matched > 0, iou / matched.clamp(min=1), 0.0)
        sq = sq.masked_fill(absent, torch.nan)
        pq = (iou / segments).masked_fill(absent, torch.nan)
        means = [float(x.nanmean()) for x in (pq, sq, rq, pq[self._things], pq[~self._things])]
        return PanopticScores(pq, sq, rq, *means)

    def _labels(self, name: str, ids: torch.Tensor, segments: Sequence[Segment]) -> dict[int, int]:
        """The class of each id."""
        there, classes = set(ids.unique().tolist()), self._sums.shape[1]
        found: dict[int, int] = {}
        for segment in segments:
            identity, label = segment["id"], segment["label_id"]
            if identity not in there:
                raise ValueError(f"{name} has segment {identity}, which has no pixel in the map")
            if not 0 <= label < classes:
                raise ValueError(
                    f"{name} has segment {identity} of class {label}, expected 0 to {classes - 1}"
                )
            if found.setdefault(identity, label) != label:
                raise ValueError(
                    f"{name} has segment {identity} of class {found[identity]} and of class {label}"
                )
        return found
