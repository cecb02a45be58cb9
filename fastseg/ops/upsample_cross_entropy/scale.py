"""What op.py and the backends of upsample_cross_entropy share."""

from __future__ import annotations

import torch


def scale_of_sum(
    grad_loss: torch.Tensor, total_weight: torch.Tensor, reduction: str
) -> torch.Tensor:
    """d(result) / d(sum of the pixel losses), a float64 scalar; 0 where no pixel counts."""
    grad = grad_loss.double()
    if reduction == "sum":
        return grad
    return torch.where(total_weight == 0, torch.zeros_like(grad), grad / total_weight)


def softmax_sums(upsampled: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """`sums` [N, H, W] of the op, before pixels that do not count are set to 1.

    Args:
        upsampled: logits [N, C, H, W].
        largest: the largest logit of each source cell, upsampled, [N, 1, H, W].

    Returns:
        The sum of exp(upsampled - largest) over the classes; where that is below 2^-60, minus the
        sum relative to the pixel's own largest logit.
    """
    sums = (upsampled - largest).exp().sum(1)
    own = (upsampled - upsampled.amax(1, keepdim=True)).exp().sum(1)
    return torch.where(sums >= 2.0**-60, sums, -own)
