"""Dice, Jaccard and Tversky losses: one formula with the switches that libraries differ in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .sums import Request, Sums, SumsLoss


class TverskyLoss(SumsLoss):
    """Tversky loss of bilinearly upsampled logits: smp.losses.TverskyLoss and its relatives.

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
        class_weight: of each chosen class; multiplies its loss before the mean.
        align_corners, process_group: as in SumsLoss. With per_image there is nothing to add up
            over processes.

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function" (2017); Abraham, Khan, "A novel
    focal Tversky loss function" (2018).
    """

    class_weight: torch.Tensor | None

    def __init__(
        self,
        mode: str = "multiclass",
        classes: Sequence[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        *,
        smooth_denominator: float | None = None,
        squared: bool = False,
        per_image: bool = False,
        joint: bool = False,
        absent: str = "zero",
        class_weight: torch.Tensor | None = None,
        align_corners: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__(mode, ignore_index, align_corners, process_group)
        if absent not in ("zero", "count"):
            raise ValueError(f"absent is {absent!r}, allowed are 'zero' and 'count'")
        if classes is not None and mode == "binary":
            raise ValueError("classes is given, but mode 'binary' has one class")
        self.classes = None if classes is None else list(classes)
        self.log_loss, self.from_logits = log_loss, from_logits
        self.smooth = smooth
        self.smooth_denominator = smooth if smooth_denominator is None else smooth_denominator
        self.eps = eps
        self.alpha, self.beta, self.gamma = alpha, beta, gamma
        self.squared, self.per_image, self.joint = squared, per_image, joint
        self.absent = absent
        self.register_buffer("class_weight", class_weight)

    def request(self) -> Request:
        """What the loss needs."""
        size = "square" if self.squared else "probability"
        return self._request(size, "overlap", "target", from_logits=self.from_logits)

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        read = sums.image if self.per_image else sums.batch
        size, overlap, target = (read(name) for name in self.request().names)
        if self.classes is not None:
            if max(self.classes) >= size.shape[-1] or min(self.classes) < -size.shape[-1]:
                raise ValueError(
                    f"classes is {self.classes}, but the logits have {size.shape[-1]} classes"
                )
            size, overlap, target = (x[..., self.classes] for x in (size, overlap, target))
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
        mean = loss.mean()
        return mean if self.gamma == 1.0 else mean**self.gamma


class DiceLoss(TverskyLoss):
    """Dice loss of bilinearly upsampled logits: TverskyLoss with alpha = beta = 1/2.

    The defaults give smp.losses.DiceLoss of the upsampled logits; `monai` and `mmseg` make the
    losses of those libraries. Arguments are those of TverskyLoss, in smp's order.

    Source: Milletari, Navab, Ahmadi, "V-Net" (2016).
    """

    def __init__(
        self,
        mode: str = "multiclass",
        classes: Sequence[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        ignore_index: int | None = None,
        eps: float = 1e-7,
        **options: Any,
    ) -> None:
        _refuse(options, "alpha", "beta")
        arguments = (classes, log_loss, from_logits, smooth, ignore_index, eps)
        super().__init__(mode, *arguments, **options)

    @classmethod
    def monai(
        cls,
        mode: str = "multiclass",
        include_background: bool = True,
        squared_pred: bool = False,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        number_of_classes: int | None = None,
        **options: Any,
    ) -> DiceLoss:
        """MONAI's DiceLoss: (2 I + smooth_nr) / (sum p + sum y + smooth_dr) of each image and
        class, absent classes too; include_background=False needs number_of_classes."""
        return cls(
            mode,
            _without_background(include_background, number_of_classes),
            smooth=smooth_nr / 2,
            smooth_denominator=smooth_dr / 2,
            eps=0.0,
            squared=squared_pred,
            per_image=not batch,
            absent="count",
            **options,
        )

    @classmethod
    def mmseg(
        cls,
        mode: str = "multiclass",
        naive_dice: bool = False,
        eps: float = 1e-3,
        ignore_index: int | None = 255,
        **options: Any,
    ) -> DiceLoss:
        """mmsegmentation's DiceLoss: one quotient per image for all classes together, 2 I /
        (sum p^2 + sum y + 2 eps), or (2 I + eps) / (sum p + sum y + eps) with naive_dice. Ignored
        pixels do not count (there they stay in the denominator)."""
        return cls(
            mode,
            smooth=eps / 2 if naive_dice else 0.0,
            smooth_denominator=eps / 2 if naive_dice else eps,
            ignore_index=ignore_index,
            eps=0.0,
            squared=not naive_dice,
            per_image=True,
            joint=True,
            absent="count",
            **options,
        )


class JaccardLoss(TverskyLoss):
    """Jaccard (IoU) loss of bilinearly upsampled logits: TverskyLoss with alpha = beta = 1.

    The defaults give smp.losses.JaccardLoss of the upsampled logits. Arguments are those of
    TverskyLoss, in smp's order.
    """

    def __init__(
        self,
        mode: str = "multiclass",
        classes: Sequence[int] | None = None,
        log_loss: bool = False,
        from_logits: bool = True,
        smooth: float = 0.0,
        eps: float = 1e-7,
        ignore_index: int | None = None,
        **options: Any,
    ) -> None:
        _refuse(options, "alpha", "beta")
        arguments = (classes, log_loss, from_logits, smooth, ignore_index, eps)
        super().__init__(mode, *arguments, 1.0, 1.0, **options)

    @classmethod
    def monai(
        cls,
        mode: str = "multiclass",
        include_background: bool = True,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        number_of_classes: int | None = None,
        **options: Any,
    ) -> JaccardLoss:
        """MONAI's DiceLoss(jaccard=True): (2 I + smooth_nr) / (2 (sum p + sum y - I) + smooth_dr)
        of each image and class, absent classes too."""
        return cls(
            mode,
            _without_background(include_background, number_of_classes),
            smooth=smooth_nr / 2,
            smooth_denominator=smooth_dr / 2,
            eps=0.0,
            per_image=not batch,
            absent="count",
            **options,
        )


def _without_background(include: bool, number_of_classes: int | None) -> list[int] | None:
    if include:
        return None
    if number_of_classes is None:
        raise ValueError("number_of_classes is None, include_background=False needs it")
    return list(range(1, number_of_classes))


def _refuse(options: dict[str, Any], *names: str) -> None:
    for name in names:
        if name in options:
            raise TypeError(f"{name} is an argument of TverskyLoss only")
