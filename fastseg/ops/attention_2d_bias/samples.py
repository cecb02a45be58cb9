"""Inputs for the tests and benchmarks of attention_2d_bias."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ...testing.samples import ErrorSample, Maker, OpSamples, Sample, Workload
from . import attention_2d_bias


def _peer(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    bias = (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2)
    return (scale * (q @ k.mT) + bias).softmax(-1) @ v


def _with_a_mask(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    bias = (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _augmented(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    """Without a mask: the biases are more of the queries, and ones in the keys pick them."""
    h, w, depth = bias_h.shape[-1], bias_w.shape[-1], q.shape[-1]
    scale = depth**-0.5 if scale is None else scale
    rows = torch.eye(h).repeat_interleave(w, 0)
    places = torch.cat([rows, torch.eye(w).repeat(h, 1)], 1).to(k).expand(*k.shape[:2], -1, -1)
    queries, keys = torch.cat([q * scale, bias_h, bias_w], -1), torch.cat([k, places], -1)
    out = F.scaled_dot_product_attention(queries, keys, F.pad(v, (0, h + w)), scale=1.0)
    return out[..., :depth]


def _inputs(
    make: Maker, n: int, heads: int, queries: int, size: tuple[int, int], depth: int
) -> dict[str, Any]:
    keys = size[0] * size[1]
    return {
        "q": make.tensor(n, heads, queries, depth),
        "k": make.tensor(n, heads, keys, depth),
        "v": make.tensor(n, heads, keys, depth),
        "bias_h": make.tensor(n, heads, queries, size[0]),
        "bias_w": make.tensor(n, heads, queries, size[1]),
    }


def _sample(why: str, *shape: Any, **arguments: Any) -> Sample:
    return Sample(why, lambda make: {**_inputs(make, *shape), **arguments})


def _as_projections_give_them(make: Maker) -> dict[str, Any]:
    """Heads behind the pixels, as one linear layer writes all three."""
    joint = make.tensor(2, 30, 3, 2, 8).permute(2, 0, 3, 1, 4)
    values = _inputs(make, 2, 2, 30, (5, 6), 8)
    return {**values, "q": joint[0], "k": joint[1], "v": joint[2]}


def _confident(make: Maker) -> dict[str, Any]:
    values = _inputs(make, 1, 2, 9, (3, 3), 8)
    return {**values, "bias_h": values["bias_h"] * 40.0, "q": values["q"] * 10.0}


def _error(why: str, error: type[Exception], match: str, **arguments: Any) -> ErrorSample:
    return ErrorSample(
        why, lambda make: {**_inputs(make, 1, 2, 5, (3, 4), 6), **arguments}, error, match
    )


def _workload(name: str, n: int, heads: int, side: int, depth: int) -> Workload:
    def inputs(make: Maker, memory_format: torch.memory_format) -> dict[str, Any]:
        return _inputs(make, n, heads, side * side, (side, side), depth)

    def moved(inputs: dict[str, Any]) -> int:
        return sum(x.nbytes for x in inputs.values()) + inputs["q"].nbytes

    # Two products, and a softmax of some ten operations a weight.
    weights = n * heads * side**4
    return Workload(name, inputs, moved, lambda _: weights * (4 * depth + 12))


SAMPLES = OpSamples(
    function=attention_2d_bias,
    peer=_peer,
    samples=(
        _sample("two heads, a map that is not square", 2, 2, 12, (3, 4), 8),
        _sample("other queries than keys", 1, 3, 7, (5, 2), 4),
        _sample("one row of keys", 1, 1, 6, (1, 9), 5),
        _sample("one column of keys", 1, 1, 6, (9, 1), 5),
        _sample("one key", 2, 1, 4, (1, 1), 3),
        _sample("more heads than go together", 25, 2, 196, (14, 14), 4),
        _sample("more queries than go together", 1, 2, 1100, (32, 32), 2),
        _sample("a scale", 1, 2, 10, (4, 5), 6, scale=0.7),
        _sample("no scale", 1, 1, 4, (2, 2), 4, scale=0.0),
        Sample("strided, as projections give them", _as_projections_give_them),
        Sample("weights of almost 0 and 1", _confident),
        _sample("batch 0", 0, 2, 5, (3, 3), 4),
    ),
    errors=(
        _error("rank of q", ValueError, "q has shape", q=torch.zeros(2, 5, 6)),
        _error("rank of a bias", ValueError, "M, L, Wk", bias_w=torch.zeros(2, 5, 4)),
        _error("integer keys", TypeError, "k has dtype", k=torch.zeros(1, 2, 12, 6).long()),
        _error("number of keys", ValueError, "k has shape", k=torch.zeros(1, 2, 11, 6)),
        _error("number of values", ValueError, "v has shape", v=torch.zeros(1, 2, 13, 6)),
        _error("depth of the values", ValueError, "v has shape", v=torch.zeros(1, 2, 12, 5)),
        _error("heads of a bias", ValueError, "bias_h has shape", bias_h=torch.zeros(1, 1, 5, 3)),
        _error("queries of a bias", ValueError, "bias_w has shape", bias_w=torch.zeros(1, 2, 1, 4)),
        _error("no queries", ValueError, "at least 1", q=torch.zeros(1, 2, 0, 6)),
        _error("other batch size", ValueError, "k has shape", q=torch.zeros(2, 2, 5, 6)),
    ),
    differentiable=("q", "k", "v", "bias_h", "bias_w"),
    linear_in="v",
    double_backward=True,
    cpu_workloads=(
        _workload("SAM ViT-B window", 25, 12, 14, 64),
        _workload("SAM ViT-B global", 1, 12, 64, 64),
    ),
    gpu_workloads=(_workload("SAM ViT-H global", 1, 16, 64, 80),),
    other_peers={"mask": _with_a_mask, "one-hot keys": _augmented},
)
