"""Logits of one class as logits of two."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def with_background(logits: torch.Tensor) -> torch.Tensor:
    """Prepends a zero background logit if there is one class; else returns the logits.

    softmax([0, z])[1] is sigmoid(z), and interpolation keeps the 0: argmax and cross-entropy of the
    two are the threshold and the binary cross-entropy of the one.

    Args:
        logits: [N, C, h, w].

    Returns:
        [N, 2, h, w] where C is 1.
    """
    return F.pad(logits, (0, 0, 0, 0, 1, 0)) if logits.shape[1] == 1 else logits
