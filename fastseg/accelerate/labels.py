"""Labels from logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def with_background(logits: torch.Tensor) -> torch.Tensor:
    """A single class [N, 1, h, w] beside the logit 0 of its absence; others as they are."""
    return F.pad(logits, (0, 0, 0, 0, 1, 0)) if logits.shape[1] == 1 else logits
