"""Scaled dot-product attention, and stochastic depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .altered import is_run_as_written

__all__ = ["DropPath", "attention"]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(D) + bias) v, by F.scaled_dot_product_attention.

    Where modules have to run as written (torch.func, forward-mode derivatives), the products and
    the softmax run one after the other, since the fused op has fewer derivatives.

    Args:
        q: [..., L, D].
        k, v: [..., S, D].
        bias: that [..., L, S] broadcasts with.
        dropout: probability, of single attention weights.

    Returns:
        [..., L, D].
    """
    if not is_run_as_written():
        return F.scaled_dot_product_attention(q, k, v, bias, dropout)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    weights = (weights if bias is None else weights + bias).softmax(-1)
    return F.dropout(weights, dropout) @ v


class DropPath(nn.Module):
    """Leaves out a branch at random, per image, and scales up what is left; in training only.

    Args:
        probability: with which it is left out, in [0, 1).

    Source: Huang et al., Deep Networks with Stochastic Depth, 2016.
    """

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"drop path has probability {probability}, expected in [0, 1)")
        self.p = probability

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, ...] -> [N, ...]."""
        if self.p == 0.0 or not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
        return x * (kept / (1 - self.p))

    def extra_repr(self) -> str:
        """The probability."""
        return f"p={self.p:g}"
