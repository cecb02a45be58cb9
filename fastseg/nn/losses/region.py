"""What Dice, Jaccard and Tversky losses share: one formula with the switches that libraries differ
in, and the generalized Dice loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .classes import checked_class_weights, chosen, chosen_weights
from .sums import Request, Sums, SumsLoss


class RegionLoss(SumsLoss):
    """Tversky loss of bilinearly upsampled logits, and its relatives.

    With the overlap I = sum p y, false positives F = sum p - I and false negatives
    M = sum y - I of each class,

        loss = mean over the classes of 1 - (I + smooth) / max(I + alpha F + beta M + smooth, eps),

    to the power of `gamma` (focal Tversky). The sums are over the batch; classes without a pixel in
    the target have loss 0 and count in the mean.

    Args:
        mode: "binary", "multiclass" or "multilabel".
        classes: indices of the classes whose mean is taken; None for all.
        log_loss: -log(score) instead of 1 - score.
        from_logits: False: the input are probabilities at the target's size.
        smooth: added to numerator and denominator.
        ignore_index: target value of pixels that do not count.
        eps: lower bound of the denominator, and of the score in the logarithm.
        alpha, beta: weights of false positives and false negatives.
        gamma: power of the mean.
        smooth_denominator: added to the denominator instead of `smooth`.
        squared: the false positives are sum p^2 - I (V-Net's Dice).
        per_image: sums over each image, and a mean over the images, too.
        joint: sums over all classes before the quotient.
        absent: "zero" (see above) or "count": a class without a pixel in the target has the loss
            that the formula gives.
        class_weight: of each chosen class; multiplies its loss before the mean, as MONAI's weight.
        class_weights: of all classes of the logits; the mean over the chosen ones is weighted by
            them, as smp has it.
        overlap: what I is where the target is between 0 and 1: sum min(p, y), "minimum", as smp
            has it; or sum p y, "product". With mode "multiclass" it is always sum p y.
        align_corners, process_group: as in SumsLoss. With per_image there is nothing to add up
            over processes.

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function" (2017); Abraham, Khan, "A novel
    focal Tversky loss function" (2018).
    """

    class_weight: torch.Tensor | None
    class_weights: torch.Tensor | None

    def __init__(
        self,
        mode: str,
        *,
        classes: Sequence[int] | None,
        log_loss: bool,
        from_logits: bool,
        smooth: float,
        ignore_index: int | None,
        eps: float,
        alpha: float,
        beta: float,
        gamma: float = 1.0,
        smooth_denominator: float | None = None,
        squared: bool = False,
        per_image: bool = False,
        joint: bool = False,
        absent: str = "zero",
        class_weight: torch.Tensor | None = None,
        class_weights: Sequence[float] | torch.Tensor | None = None,
        overlap: str = "minimum",
        align_corners: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__(mode, ignore_index, align_corners, process_group)
        if overlap not in ("minimum", "product"):
            raise ValueError(f"overlap is {overlap!r}, allowed are 'minimum' and 'product'")
        self.overlap = overlap
        if absent not in ("zero", "count"):
            raise ValueError(f"absent is {absent!r}, allowed are 'zero' and 'count'")
        if classes is not None and mode == "binary":
            raise ValueError("classes is given, but mode 'binary' has one class")
        if joint and class_weights is not None:
            raise ValueError("class_weights is given, but all classes are in one quotient (joint)")
        self.classes = None if classes is None else list(classes)
        self.log_loss, self.from_logits = log_loss, from_logits
        self.smooth = smooth
        self.smooth_denominator = smooth if smooth_denominator is None else smooth_denominator
        self.eps = eps
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.squared, self.per_image, self.joint = squared, per_image, joint
        self.absent = absent
        self.register_buffer("class_weight", class_weight)
        self.register_buffer("class_weights", checked_class_weights(class_weights, mode))

    def request(self) -> Request:
        """What the loss needs."""
        size = "square" if self.squared else "probability"
        overlap = "overlap" if self.overlap == "product" else "minimum"
        return self._request(size, overlap, "target", from_logits=self.from_logits)

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        read = sums.image if self.per_image else sums.batch
        size, overlap, target = (read(name) for name in self.request().names)
        size, overlap, target = chosen(self.classes, size, overlap, target)
        weights = chosen_weights(self.class_weights, sums.classes, self.classes)
        if self.joint:
            size, overlap, target = (x.sum(-1, keepdim=True) for x in (size, overlap, target))
        wrong = self.alpha * (size - overlap) + self.beta * (target - overlap)
        denominator = (overlap + wrong + self.smooth_denominator).clamp_min(self.eps)
        score = (overlap + self.smooth) / denominator
        loss = -score.clamp_min(self.eps).log() if self.log_loss else 1.0 - score
        if self.absent == "zero":
            loss = loss * (target > 0)
        if self.class_weight is not None:
            loss = loss * self.class_weight
        mean = loss.mean() if weights is None else (loss * weights).sum(-1).mean() / weights.sum()
        if self.gamma == 1.0:
            return mean
        # The slope of a root at 0 is infinite, and times the slope 0 of the mean there NaN.
        positive = mean > 0
        return (mean.where(positive, 1.0) ** self.gamma).where(positive, mean)


class GeneralizedDiceLoss(SumsLoss):
    """Generalized Dice loss of bilinearly upsampled logits: classes weigh more the rarer they are.

    The same as monai.losses.GeneralizedDiceLoss of the upsampled logits. With I = sum p y,
    P = sum p, T = sum y of each class and weights w that depend on T:

        loss = 1 - (2 sum w I + smooth_nr) / (sum w (P + T) + smooth_dr),

    sums over the classes of an image; the mean over the images. A class without a pixel in the
    target has the largest weight of the others.

    Args:
        mode: "binary", "multiclass" or "multilabel".
        weight: "square" (1 / T^2), "simple" (1 / T) or "uniform" (1).
        classes: indices of the classes that count; None for all.
        batch: sums over the batch instead of each image.
        smooth_nr, smooth_dr: added to numerator and denominator.
        ignore_index, align_corners, process_group: as in SumsLoss. Without `batch` there is nothing
            to add up over processes.

    Source: Sudre et al., "Generalised Dice overlap as a deep learning loss function for highly
    unbalanced segmentations" (2017).
    """

    def __init__(
        self,
        mode: str = "multiclass",
        weight: str = "square",
        classes: Sequence[int] | None = None,
        batch: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        ignore_index: int | None = None,
        align_corners: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__(mode, ignore_index, align_corners, process_group)
        if weight not in ("square", "simple", "uniform"):
            raise ValueError(f"weight is {weight!r}, allowed are 'square', 'simple' and 'uniform'")
        self.weight, self.batch = weight, batch
        self.classes = None if classes is None else list(classes)
        self.smooth_nr, self.smooth_dr = smooth_nr, smooth_dr

    def request(self) -> Request:
        """What the loss needs."""
        return self._request("probability", "overlap", "target")

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        read = sums.batch if self.batch else sums.image
        size, overlap, target = chosen(
            self.classes, read("probability"), read("overlap"), read("target")
        )
        if self.weight == "uniform":
            weight = torch.ones_like(target)
        else:
            weight = 1.0 / (target * target if self.weight == "square" else target)
            present = weight.where(target > 0, 0.0)
            weight = present.where(target > 0, present.amax(-1, keepdim=True))
        numerator = 2.0 * (overlap * weight).sum(-1) + self.smooth_nr
        denominator = ((size + target) * weight).sum(-1) + self.smooth_dr
        return (1.0 - numerator / denominator).mean()
