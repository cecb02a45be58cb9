"""Dice, Jaccard and Tversky losses as smp, MONAI and mmsegmentation have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .region import RegionLoss


class TverskyLoss(RegionLoss):
    """Tversky loss of bilinearly upsampled logits, which weighs false positives and negatives.

    The defaults give smp.losses.TverskyLoss of the upsampled logits; `monai` and `mmseg` make the
    losses of those libraries. A gamma other than 1 makes it focal. Arguments are those of
    RegionLoss, in smp's order.

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function" (2017); Abraham, Khan, "A novel
    focal Tversky loss function" (2018).
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
        alpha: float = 0.5,
        beta: float = 0.5,
        gamma: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(
            mode,
            classes=classes,
            log_loss=log_loss,
            from_logits=from_logits,
            smooth=smooth,
            ignore_index=ignore_index,
            eps=eps,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            **options,
        )

    @classmethod
    def monai(
        cls,
        mode: str = "multiclass",
        alpha: float = 0.5,
        beta: float = 0.5,
        smooth_nr: float = 1e-5,
        smooth_dr: float = 1e-5,
        batch: bool = False,
        include_background: bool = True,
        number_of_classes: int | None = None,
        **options: Any,
    ) -> TverskyLoss:
        """MONAI's TverskyLoss: (I + smooth_nr) / (I + alpha F + beta M + smooth_dr) of each image
        and class; include_background=False needs number_of_classes."""
        return TverskyLoss(
            mode,
            _without_background(include_background, number_of_classes),
            smooth=smooth_nr,
            smooth_denominator=smooth_dr,
            eps=0.0,
            alpha=alpha,
            beta=beta,
            per_image=not batch,
            absent="count",
            overlap="product",
            **options,
        )

    @classmethod
    def mmseg(
        cls,
        mode: str = "multiclass",
        alpha: float = 0.3,
        beta: float = 0.7,
        smooth: float = 1.0,
        ignore_index: int | None = 255,
        **options: Any,
    ) -> TverskyLoss:
        """mmsegmentation's TverskyLoss: (I + smooth) / (I + alpha F + beta M + smooth) of each
        image and class. alpha and beta need not add up to 1; no channel is left out."""
        return TverskyLoss(
            mode,
            smooth=smooth,
            ignore_index=ignore_index,
            eps=0.0,
            alpha=alpha,
            beta=beta,
            per_image=True,
            absent="count",
            overlap="product",
            **options,
        )


class DiceLoss(RegionLoss):
    """Dice loss of bilinearly upsampled logits: RegionLoss with alpha = beta = 1/2.

    The defaults give smp.losses.DiceLoss of the upsampled logits; `monai` and `mmseg` make the
    losses of those libraries.
    Arguments are those of RegionLoss, in smp's order.

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
        super().__init__(
            mode,
            classes=classes,
            log_loss=log_loss,
            from_logits=from_logits,
            smooth=smooth,
            ignore_index=ignore_index,
            eps=eps,
            alpha=0.5,
            beta=0.5,
            **options,
        )

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
            overlap="product",
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
            overlap="product",
            **options,
        )


class JaccardLoss(RegionLoss):
    """Jaccard (IoU) loss of bilinearly upsampled logits: RegionLoss with alpha = beta = 1.

    The defaults give smp.losses.JaccardLoss of the upsampled logits; `monai` makes MONAI's.
    Arguments are those of RegionLoss, in smp's order.
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
        super().__init__(
            mode,
            classes=classes,
            log_loss=log_loss,
            from_logits=from_logits,
            smooth=smooth,
            ignore_index=ignore_index,
            eps=eps,
            alpha=1.0,
            beta=1.0,
            **options,
        )

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
            overlap="product",
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
