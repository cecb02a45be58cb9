"""Losses that are sums over the pixels: cross-entropy, binary cross-entropy, focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...ops.upsample_cross_entropy import upsample_cross_entropy
from .classes import checked_class_weights, chosen_weights
from .sums import Request, Sums, SumsLoss


class UpsampleCrossEntropy(SumsLoss):
    """Cross-entropy of bilinearly upsampled logits: fastseg.upsample_cross_entropy as a module.

    The same as nn.CrossEntropyLoss of F.interpolate(logits, target.shape[1:], mode="bilinear").

    Args:
        weight: of each class [C], or None; a buffer that moves with the module.
        ignore_index, reduction, label_smoothing: as in nn.CrossEntropyLoss.
        align_corners: as in F.interpolate.
        process_group: as in SumsLoss; for reduction "mean" and "sum".
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        align_corners: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__("multiclass", ignore_index, align_corners, process_group)
        self.register_buffer("weight", weight)
        self.reduction = reduction
        self.label_smoothing = label_smoothing

    def request(self) -> Request:
        """What the loss needs."""
        every = ("every_loss",) if self.label_smoothing > 0.0 else ()
        return self._request("loss", "target", *every)

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        if self.reduction == "none":
            raise ValueError("reduction is 'none', which cannot be part of a sum of losses")
        loss, target = sums.batch("loss"), sums.batch("target")
        every = sums.batch("every_loss") if self.label_smoothing > 0.0 else None
        if self.weight is not None:
            loss, target = loss * self.weight, target * self.weight
            every = None if every is None else every * self.weight
        result = loss.sum()
        if every is not None:
            smoothing = self.label_smoothing
            result = (1.0 - smoothing) * result + smoothing / every.numel() * every.sum()
        return result / target.sum() if self.reduction == "mean" else result

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        pixel_weight: torch.Tensor | None = None,
        *,
        align_corners: bool | None = None,
    ) -> torch.Tensor:
        """Logits [N, C, h, w] and classes [N, H, W] -> scalar, or [N, H, W] unreduced.

        With a pixel_weight [N, H, W] the mean is over the weights of the pixels times those of
        their classes.
        """
        if pixel_weight is not None or self.process_group is not None:
            return super().forward(logits, target, pixel_weight, align_corners=align_corners)
        assert self.ignore_index is not None
        return upsample_cross_entropy(
            logits,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
            self.align_corners if align_corners is None else align_corners,
        )


class BCEWithLogitsLoss(SumsLoss):
    """Binary cross-entropy of bilinearly upsampled logits, of one class or of several labels.

    The same as nn.BCEWithLogitsLoss of the upsampled logits; with smooth_factor and over="all" as
    smp.losses.SoftBCEWithLogitsLoss; with balanced and over="all" as mmsegmentation's BoundaryLoss.

    Args:
        mode: "binary" or "multilabel".
        ignore_index: value of elements of the target that do not count, or None.
        reduction: "mean" or "sum".
        smooth_factor: s in [0, 1]: targets become y (1 - s) + (1 - y) s.
        pos_weight: factor of the positive part, a number or one for each class [C].
        over: the mean is over the elements that count ("counted") or over all ("all", as smp's).
        balanced: positives weigh as much as the share of the negatives among the elements that
            count, and the other way round: a boundary of few pixels is not outweighed.
        align_corners, process_group: as in SumsLoss.
    """

    pos_weight: torch.Tensor | None

    def __init__(
        self,
        mode: str = "binary",
        ignore_index: int | None = None,
        reduction: str = "mean",
        smooth_factor: float | None = None,
        pos_weight: torch.Tensor | float | None = None,
        over: str = "counted",
        balanced: bool = False,
        align_corners: bool = False,
        process_group: Any = None,
    ) -> None:
        super().__init__(mode, ignore_index, align_corners, process_group)
        if mode == "multiclass":
            raise ValueError("mode is 'multiclass', allowed are 'binary' and 'multilabel'")
        _check_reduction(reduction)
        if over not in ("counted", "all"):
            raise ValueError(f"over is {over!r}, allowed are 'counted' and 'all'")
        if smooth_factor is not None and not 0.0 <= smooth_factor <= 1.0:
            raise ValueError(f"smooth_factor is {smooth_factor}, expected a number in [0, 1]")
        weight = None if pos_weight is None else torch.as_tensor(pos_weight)
        self.register_buffer("pos_weight", weight)
        self.reduction, self.smooth_factor, self.over = reduction, smooth_factor or 0.0, over
        self.balanced = balanced

    def request(self) -> Request:
        """What the loss needs."""
        names = ["loss", "negative_loss", "count"]
        if self.smooth_factor > 0.0:
            names += ["every_loss", "negative_every_loss"]
        if self.balanced:
            names.append("target")
        return self._request(*names)

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        positive, negative = sums.batch("loss"), sums.batch("negative_loss")
        if self.smooth_factor > 0.0:
            s = self.smooth_factor
            every, other = sums.batch("every_loss"), sums.batch("negative_every_loss")
            positive = (1.0 - s) * positive + s * (every - positive)
            negative = (1.0 - s) * negative + s * (other - negative)
        if self.pos_weight is not None:
            positive = positive * self.pos_weight
        if self.balanced:
            share = sums.batch("target").sum() / sums.batch("count").sum()
            positive, negative = positive * (1.0 - share), negative * share
        total = (positive + negative).sum()
        if self.reduction == "sum":
            return total
        return total / (sums.batch("count").sum() if self.over == "counted" else sums.elements)


class FocalLoss(SumsLoss):
    """Focal loss of bilinearly upsampled logits: smp.losses.FocalLoss of them.

    -(1 - p_t)^gamma log p_t with the probability p_t of the target, averaged over the pixels and
    then the classes. As in smp the probabilities are sigmoids, in "multiclass" mode of each class
    against the others; activation="softmax" takes those of the softmax instead, and the mean over
    the pixels alone.

    Args:
        mode: "binary", "multiclass" or "multilabel".
        alpha: weight of the positive part; the negative one has 1 - alpha. None: both 1. With
            softmax a factor of the whole, or one for each class [C].
        gamma: the power, at least 0.
        ignore_index: target value of pixels that do not count.
        reduction: over the pixels, "mean" or "sum".
        normalized: divides by the sum of (1 - p_t)^gamma as well.
        reduced_threshold: r: the power is of (1 - p_t) / r, and 1 where p_t < r.
        activation: "sigmoid" or (multiclass only) "softmax".
        eps: lower bound of the divisor with `normalized`.
        class_weights: of the classes; the mean over them is weighted, as smp has it.
        align_corners, process_group: as in SumsLoss.

    Source: Lin et al., "Focal loss for dense object detection" (2017).
    """

    alpha: torch.Tensor | None
    class_weights: torch.Tensor | None

    def __init__(
        self,
        mode: str = "multiclass",
        alpha: float | torch.Tensor | None = None,
        gamma: float = 2.0,
        ignore_index: int | None = None,
        reduction: str = "mean",
        normalized: bool = False,
        reduced_threshold: float | None = None,
        activation: str = "sigmoid",
        eps: float = 1e-6,
        align_corners: bool = False,
        process_group: Any = None,
        class_weights: Sequence[float] | torch.Tensor | None = None,
    ) -> None:
        super().__init__(mode, ignore_index, align_corners, process_group)
        _check_reduction(reduction)
        if activation not in ("sigmoid", "softmax"):
            raise ValueError(f"activation is {activation!r}, allowed are 'sigmoid' and 'softmax'")
        if activation == "softmax" and mode != "multiclass":
            raise ValueError(f"activation is 'softmax', but mode {mode!r} has a sigmoid")
        if activation == "softmax" and class_weights is not None:
            raise ValueError("class_weights is given, but with activation 'softmax' alpha weighs")
        self.register_buffer("alpha", None if alpha is None else torch.as_tensor(alpha))
        self.register_buffer("class_weights", checked_class_weights(class_weights, mode))
        self.gamma, self.reduction, self.normalized = gamma, reduction, normalized
        self.reduced_threshold = reduced_threshold
        self.activation, self.eps = activation, eps

    def request(self) -> Request:
        """What the loss needs."""
        kinds = ["focal", "focal_weight"] if self.normalized else ["focal"]
        if self.activation == "sigmoid":
            kinds += [f"negative_{kind}" for kind in kinds]
        return self._request(
            *kinds,
            "count",
            activation=self.activation,
            gamma=self.gamma,
            reduced_threshold=self.reduced_threshold or 0.0,
        )

    def of_sums(self, sums: Sums) -> torch.Tensor:
        """The loss, a float64 scalar."""
        loss, count = sums.batch("focal"), sums.batch("count")
        norm = sums.batch("focal_weight") if self.normalized else count
        softmax = self.activation == "softmax"
        if self.alpha is not None:
            loss = loss * self.alpha
        if not softmax:
            negative = sums.batch("negative_focal")
            loss = loss + (negative if self.alpha is None else negative * (1.0 - self.alpha))
            if self.normalized:
                norm = norm + sums.batch("negative_focal_weight")
        if softmax or self.mode == "binary":
            count = count[0] if softmax else count.sum()
            loss, norm = loss.sum(), norm.sum()
        if self.normalized:
            loss = loss / norm.clamp_min(self.eps)
        loss = loss / count if self.reduction == "mean" else loss
        weights = chosen_weights(self.class_weights, sums.classes, None)
        return loss.mean() if weights is None else (loss * weights).sum() / weights.sum()


def _check_reduction(reduction: str) -> None:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, allowed are 'mean' and 'sum'")
