"""The definition of upsample_argmax in plain PyTorch."""

from __future__ import annotations

import torch

from ...dtypes import label_dtype, widened
from ..upsample_bilinear import reference as bilinear


def forward(logits: torch.Tensor, size: list[int], align_corners: bool) -> torch.Tensor:
    """Labels [N, *size] of the upsampled logits, which are not rounded to a 16-bit type."""
    upsampled = bilinear.forward(widened(logits), size, align_corners, None, None)
    return upsampled.argmax(1).to(label_dtype(logits.shape[1]))
