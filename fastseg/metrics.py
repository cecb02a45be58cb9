"""Scores of a segmentation, from the confusion matrix of a whole data set.

Counts are summed over all images (and processes) first and divided once: the field's convention,
of mmseg, semseg, torchvision and HF alike. Means of per-image scores are another thing.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from .panoptic_quality import PanopticQuality as PanopticQuality
from .panoptic_quality import PanopticScores as PanopticScores

Void = Literal["ignored", "false-positive"]
Absent = Literal["nan", "zero"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of C classes, each from 0 to 1, float64.

    Attributes:
        iou: intersection over union per class [C].
        accuracy: share of a class's pixels that were labelled with it (recall) per class [C].
        dice: 2 intersection / (truth + prediction) per class [C]; equal to the F1 score.
        miou, macc, mdice: means over the classes, of those that are not NaN.
        aacc: share of all pixels that are labelled right.
    """

    iou: torch.Tensor
    accuracy: torch.Tensor
    dice: torch.Tensor
    miou: float
    macc: float
    mdice: float
    aacc: float

    def as_json(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The scores as numbers and, per class, by name; NaN becomes null."""
        return {
            "mIoU": _number(self.miou),
            "mAcc": _number(self.macc),
            "aAcc": _number(self.aacc),
            "mDice": _number(self.mdice),
            "classes": [
                {"name": name, "IoU": _number(i), "Acc": _number(a), "Dice": _number(d)}
                for name, i, a, d in zip(
                    names,
                    self.iou.tolist(),
                    self.accuracy.tolist(),
                    self.dice.tolist(),
                    strict=True,
                )
            ],
        }


def scores(
    matrix: torch.Tensor,
    classes: int | None = None,
    *,
    void: Void = "ignored",
    absent: Absent = "nan",
) -> Scores:
    """IoU, accuracy and Dice of each class, and their means.

    With I, T and P the pixels that are right, true and predicted of a class: IoU = I / (T + P - I),
    accuracy = I / T, Dice = 2 I / (T + P).

    Args:
        matrix: counts [C, C] of any integer type, rows are the truth, as
            `upsample_confusion_matrix` gives them; or [C + 1, C] or [C + 1, C + 1], where the last
            row is the pixels whose truth is void, and the last column those predicted as void.
        classes: C, where the matrix has more rows than that; by default its number of columns.
        void: what is done with pixels whose truth is void. "ignored": they do not exist, as
            everywhere today. "false-positive": they count in P of the class predicted there, as in
            the CamVid tables of SegNet's time. In both, a pixel of a class that is predicted as
            void is a miss of that class.
        absent: the value of a class without pixels (T + P = 0 for IoU and Dice, T = 0 for
            accuracy). "nan": not part of the mean (mmseg, HF). "zero": 0, and part of it (semseg).

    Returns:
        The scores; means over no class are NaN.

    Raises:
        ValueError: shape of the matrix, or an option. TypeError: dtype of the matrix.
    """
    if matrix.is_floating_point() or matrix.is_complex() or matrix.dtype is torch.bool:
        raise TypeError(f"matrix has dtype {matrix.dtype}, expected integers")
    if matrix.dim() != 2:
        raise ValueError(f"matrix has shape {tuple(matrix.shape)}, expected [C, C]")
    count = matrix.shape[1] if classes is None else classes
    allowed = {(count, count), (count + 1, count), (count + 1, count + 1)}
    if tuple(matrix.shape) not in allowed or count < 1:
        raise ValueError(
            f"matrix has shape {tuple(matrix.shape)}, expected [C, C], [C + 1, C] or "
            f"[C + 1, C + 1] with C = {count}"
        )
    if void not in ("ignored", "false-positive"):
        raise ValueError(f"void is {void!r}, allowed are 'ignored' and 'false-positive'")
    if absent not in ("nan", "zero"):
        raise ValueError(f"absent is {absent!r}, allowed are 'nan' and 'zero'")

    counts = matrix.to("cpu", torch.int64)
    right = counts.diagonal()[:count]
    truth = counts[:count].sum(1)
    rows = counts if void == "false-positive" else counts[:count]
    predicted = rows[:, :count].sum(0)
    iou = _ratio(right, truth + predicted - right, absent)
    accuracy = _ratio(right, truth, absent)
    dice = _ratio(2 * right, truth + predicted, absent)
    return Scores(
        iou,
        accuracy,
        dice,
        miou=iou.nanmean().item(),
        macc=accuracy.nanmean().item(),
        mdice=dice.nanmean().item(),
        aacc=_ratio(right.sum(), truth.sum(), absent).item(),
    )


def _ratio(numerator: torch.Tensor, denominator: torch.Tensor, absent: Absent) -> torch.Tensor:
    ratio = numerator.double() / denominator.double()
    return ratio.nan_to_num(0.0) if absent == "zero" else ratio


def _number(value: float) -> float | None:
    return None if value != value else value
