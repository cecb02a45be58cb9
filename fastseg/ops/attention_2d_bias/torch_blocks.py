"""attention_2d_bias in PyTorch, some weights at a time.

Forward, the biases of a block are added up in memory that all blocks share, and PyTorch's fused
attention takes them as its mask. Backward, which is fused nowhere with a gradient to the mask, the
weights of a block are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from ...dtypes import compute_dtype

# Weights in a block, 16 MB in float32. A quarter of it is slower by half for 4096 keys, as blocks
# get too few queries; four times as much is slower by half for windows, as it leaves the cache.
_WEIGHTS_AT_A_TIME = 1 << 22
# Fewer would leave the fused attention's own blocks half empty.
_QUERIES_AT_LEAST = 512

_Block = tuple[slice, slice, slice]


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """[N, M, Lq, D]"""
    inputs = q, k, v, bias_h, bias_w
    same = all(x.dtype is q.dtype for x in inputs)
    dtype = q.dtype if same else compute_dtype(*inputs)
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    memory = None
    for block in _blocks(q, k):
        rows, columns = bias_h[block].to(dtype), bias_w[block].to(dtype)
        size = (*rows.shape, columns.shape[-1])
        if memory is None:  # the first block is the largest
            memory = torch.empty(math.prod(size), dtype=dtype, device=q.device)
        bias = memory[: math.prod(size)].view(size)
        torch.add(rows[..., :, None], columns[..., None, :], out=bias)
        queries, keys, values = (x.to(dtype) for x in (q[block], k[block[:2]], v[block[:2]]))
        out[block] = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=bias.flatten(-2), scale=scale
        ).to(q.dtype)
    return out


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
    inputs = q, k, v, bias_h, bias_w
    wide = compute_dtype(*inputs)
    of_q, of_k, of_v, of_h, of_w = (
        torch.zeros(x.shape, dtype=wide, device=q.device) for x in inputs
    )
    size = bias_h.shape[-1], bias_w.shape[-1]
    for block in _blocks(q, k):
        heads = block[:2]
        queries, g = q[block].to(wide), grad_out[block].to(wide)
        keys, values = k[heads].to(wide), v[heads].to(wide)
        bias = bias_h[block].to(wide)[..., :, None] + bias_w[block].to(wide)[..., None, :]
        # After the products: with a large bias every product of the sum would be rounded to it.
        weights = bias.flatten(-2).add_(queries @ keys.mT, alpha=scale).softmax(-1)
        of_v[heads] += weights.mT @ g
        slope = g @ values.mT
        slope -= (slope * weights).sum(-1, keepdim=True)
        slope *= weights
        as_map = slope.unflatten(-1, size)
        of_h[block], of_w[block] = as_map.sum(-1), as_map.sum(-2)
        of_q[block] = (slope @ keys).mul_(scale)
        of_k[heads] += (slope.mT @ queries).mul_(scale)
    grads = of_q, of_k, of_v, of_h, of_w
    return tuple(g.to(x.dtype) for g, x in zip(grads, inputs, strict=True))


def _blocks(q: torch.Tensor, k: torch.Tensor) -> Iterator[_Block]:
    """Images, heads and queries that go together, the first block the largest."""
    images, heads, queries = q.shape[:3]
    keys = k.shape[2]
    rows = min(queries, max(_QUERIES_AT_LEAST, _WEIGHTS_AT_A_TIME // keys))
    some_heads = min(heads, max(1, _WEIGHTS_AT_A_TIME // (rows * keys)))
    some_images = max(1, _WEIGHTS_AT_A_TIME // (heads * rows * keys))
    for n in range(0, images, some_images):
        for m in range(0, heads, some_heads):
            for y in range(0, queries, rows):
                yield (
                    slice(n, min(n + some_images, images)),
                    slice(m, min(m + some_heads, heads)),
                    slice(y, min(y + rows, queries)),
                )
