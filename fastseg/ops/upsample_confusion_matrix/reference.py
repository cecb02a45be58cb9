"""The definition of upsample_confusion_matrix in plain PyTorch."""

from __future__ import annotations

import torch

from ..._checks import bad_target, first_bad_target
from ..upsample_argmax import reference as argmax


def forward(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int, align_corners: bool
) -> torch.Tensor:
    """Counts [C, C] of (target, label) pairs."""
    classes = logits.shape[1]
    bad = first_bad_target(target, classes, ignore_index)
    if bad >= 0:
        raise bad_target(target, bad, classes, ignore_index)
    labels = argmax.forward(logits, list(target.shape[1:]), align_corners)
    counted = target != ignore_index
    pairs = target[counted].long() * classes + labels[counted].long()
    return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
