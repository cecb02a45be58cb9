"""What op.py and the backends of upsample_cross_entropy share."""

from __future__ import annotations

import torch


def compute_dtype(logits: torch.Tensor) -> torch.dtype:
    """What losses and gradients are accumulated in."""
    return torch.float64 if logits.dtype is torch.float64 else torch.float32


def scale_of_sum(
    grad_loss: torch.Tensor, total_weight: torch.Tensor, reduction: str
) -> torch.Tensor:
    """d(result) / d(sum of the pixel losses), a float64 scalar; 0 where no pixel counts."""
    grad = grad_loss.double()
    if reduction == "sum":
        return grad
    return torch.where(total_weight == 0, torch.zeros_like(grad), grad / total_weight)
