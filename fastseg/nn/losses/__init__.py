"""Losses of low-resolution logits against full-resolution targets (table: docs/losses.md)."""

from .boundary import boundary_weight
from .combined import CombinedLoss, parse_loss
from .dice import DiceLoss, JaccardLoss, TverskyLoss
from .distillation import DistillationLoss
from .lovasz import LovaszLoss
from .ohem import OhemCrossEntropy
from .pointwise import BCEWithLogitsLoss, FocalLoss, UpsampleCrossEntropy
from .region import GeneralizedDiceLoss, RegionLoss
from .sums import SumsLoss

__all__ = [
    "BCEWithLogitsLoss",
    "CombinedLoss",
    "DiceLoss",
    "DistillationLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "LovaszLoss",
    "OhemCrossEntropy",
    "RegionLoss",
    "SumsLoss",
    "TverskyLoss",
    "UpsampleCrossEntropy",
    "boundary_weight",
    "parse_loss",
]
