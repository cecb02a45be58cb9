"""Attention over a map with one bias per row and one per column."""

from __future__ import annotations

import torch

from .op import attention_2d_bias_op

__all__ = ["attention_2d_bias"]


def attention_2d_bias(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    """Attends over the pixels of a map, with a bias that is a row's share plus a column's share.

        weights = softmax(scale q k^T + bias_h[..., :, None] + bias_w[..., None, :]);  weights @ v

    The same as F.scaled_dot_product_attention with the sum of the biases as its mask, and without
    that mask and the weights: both would be matrices of Lq x Hk Wk numbers for every head, 1.6 GB
    for one layer of Segment Anything. Some queries are treated at a time, so memory grows with the
    number of queries alone. The backward computes the weights again.

    Args:
        q: queries [N, M, Lq, D] of N images and M heads; float32, bfloat16, float16 or float64. N
            may be 0.
        k, v: keys and values [N, M, Hk Wk, D] of the pixels of a map, row by row.
        bias_h: [N, M, Lq, Hk], added to the keys of each row.
        bias_w: [N, M, Lq, Wk], added to the keys of each column.
        scale: factor of q k^T; None: 1 / sqrt(D).

    Returns:
        [N, M, Lq, D] in the dtype of q. Sums are float64 if one of the tensors is, else float32.
        All five tensors are differentiable.

    Raises:
        ValueError: shapes that do not fit, or a dimension other than N below 1.
        TypeError: dtypes.

    Source: Li et al., "MViTv2: Improved multiscale vision transformers" (2022), decomposed relative
    position embeddings.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5
    return attention_2d_bias_op(q, k, v, bias_h, bias_w, float(scale))
