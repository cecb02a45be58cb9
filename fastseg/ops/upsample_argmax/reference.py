"""The definition of upsample_argmax in plain PyTorch."""

from __future__ import annotations

from typing import Any

import torch

from ..upsample_bilinear import reference as bilinear


def unsupported_reason(*_: Any) -> str | None:
    """Runs anywhere."""
    return None


def forward(logits: torch.Tensor, size: list[int], align_corners: bool) -> torch.Tensor:
    """Labels [N, *size] of the upsampled logits, which are not rounded to a 16-bit type."""
    wide = logits if logits.dtype is torch.float64 else logits.float()
    upsampled = bilinear.forward(wide, size, align_corners, None, None)
    return upsampled.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int32)
