"""Losses of low-resolution logits against full-resolution targets (table: docs/losses.md)."""

from .combined import CombinedLoss, parse_loss
from .pointwise import BCEWithLogitsLoss, FocalLoss, UpsampleCrossEntropy
from .region import DiceLoss, JaccardLoss, TverskyLoss
from .sums import SumsLoss

__all__ = [
    "BCEWithLogitsLoss",
    "CombinedLoss",
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "SumsLoss",
    "TverskyLoss",
    "UpsampleCrossEntropy",
    "parse_loss",
]
