"""The definition of attention_2d_bias in plain PyTorch."""

from __future__ import annotations

import torch

from ...dtypes import compute_dtype


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """[N, M, Lq, D]"""
    wide = compute_dtype(q, k, v, bias_h, bias_w)
    return (_weights(q, k, bias_h, bias_w, scale, wide) @ v.to(wide)).to(q.dtype)


def backward(
    grad_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, ...]:
    """Gradients to q, k, v, bias_h and bias_w."""
    wide = compute_dtype(q, k, v, bias_h, bias_w)
    weights = _weights(q, k, bias_h, bias_w, scale, wide)
    g = grad_out.to(wide)
    of_weights = g @ v.to(wide).mT
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True))
    as_map = of_scores.unflatten(-1, (bias_h.shape[-1], bias_w.shape[-1]))
    return (
        (scale * (of_scores @ k.to(wide))).to(q.dtype),
        (scale * (of_scores.mT @ q.to(wide))).to(k.dtype),
        (weights.mT @ g).to(v.dtype),
        as_map.sum(-1).to(bias_h.dtype),
        as_map.sum(-2).to(bias_w.dtype),
    )


def _weights(
    q: torch.Tensor,
    k: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float,
    wide: torch.dtype,
) -> torch.Tensor:
    """[N, M, Lq, Hk Wk]"""
    bias = bias_h.to(wide)[..., :, None] + bias_w.to(wide)[..., None, :]
    return (scale * (q.to(wide) @ k.to(wide).mT) + bias.flatten(-2)).softmax(-1)
