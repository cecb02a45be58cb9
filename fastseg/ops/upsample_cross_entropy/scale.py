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


def encode_log_sums(log_sums: torch.Tensor) -> torch.Tensor:
    """`sums` of the op: for L = log2(sum of exp(logit) over the classes) it is 2^L if that is from
    2^-60 to 2^100, else -L (for L > 0) or 1 / L; 1 for a pixel that does not count."""
    beyond = torch.where(log_sums > 0, -log_sums, 1.0 / log_sums)
    return torch.where((log_sums >= -60) & (log_sums <= 100), log_sums.exp2(), beyond)
