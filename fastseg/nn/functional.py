"""The losses as functions: of low-resolution logits and a full-resolution target.

Each takes the options of the module that it is named after, by name.
"""

from __future__ import annotations

from typing import Any

import torch

from .losses import (
    BCEWithLogitsLoss,
    DiceLoss,
    DistillationLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LovaszLoss,
    OhemCrossEntropy,
    TverskyLoss,
)
from .losses.sums import SumsLoss

__all__ = [
    "binary_cross_entropy_with_logits",
    "dice_loss",
    "distillation_loss",
    "focal_loss",
    "generalized_dice_loss",
    "jaccard_loss",
    "lovasz_loss",
    "ohem_cross_entropy",
    "tversky_loss",
]


def dice_loss(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    """fastseg.nn.DiceLoss as a function; pixel_weight is an option, too."""
    return _of_sums(DiceLoss, logits, target, options)


def jaccard_loss(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    """fastseg.nn.JaccardLoss as a function; pixel_weight is an option, too."""
    return _of_sums(JaccardLoss, logits, target, options)


def tversky_loss(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    """fastseg.nn.TverskyLoss as a function; pixel_weight is an option, too."""
    return _of_sums(TverskyLoss, logits, target, options)


def generalized_dice_loss(
    logits: torch.Tensor, target: torch.Tensor, **options: Any
) -> torch.Tensor:
    """fastseg.nn.GeneralizedDiceLoss as a function; pixel_weight is an option, too."""
    return _of_sums(GeneralizedDiceLoss, logits, target, options)


def focal_loss(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    """fastseg.nn.FocalLoss as a function; pixel_weight is an option, too."""
    return _of_sums(FocalLoss, logits, target, options)


def binary_cross_entropy_with_logits(
    logits: torch.Tensor, target: torch.Tensor, **options: Any
) -> torch.Tensor:
    """fastseg.nn.BCEWithLogitsLoss as a function; pixel_weight is an option, too."""
    return _of_sums(BCEWithLogitsLoss, logits, target, options)


def ohem_cross_entropy(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    """fastseg.nn.OhemCrossEntropy as a function."""
    return OhemCrossEntropy(**options)(logits, target)


def lovasz_loss(logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
    """fastseg.nn.LovaszLoss as a function."""
    return LovaszLoss(**options)(logits, target)


def distillation_loss(
    logits: torch.Tensor,
    teacher: torch.Tensor,
    size: tuple[int, int],
    pixel_weight: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """fastseg.nn.DistillationLoss as a function."""
    return DistillationLoss(**options)(logits, teacher, size, pixel_weight)


def _of_sums(
    loss: type[SumsLoss], logits: torch.Tensor, target: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    pixel_weight = options.pop("pixel_weight", None)
    return loss(**options)(logits, target, pixel_weight)
