"""The contract of attention_2d_bias: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import FLOAT_DTYPES, check_same_device, check_shape
from ...backends import Backend
from ...derivatives import Autograd, by_definition, tangent_by_definition
from ...registry import Function, OpSpec, define
from . import reference, torch_blocks

_TENSORS = "Tensor q, Tensor k, Tensor v, Tensor bias_h, Tensor bias_w, float scale"


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias_h: torch.Tensor,
    bias_w: torch.Tensor,
    scale: float,
) -> None:
    named = {"q": q, "k": k, "v": v, "bias_h": bias_h, "bias_w": bias_w}
    for name, x in named.items():
        if x.dim() != 4:
            last = {"bias_h": "Hk", "bias_w": "Wk"}.get(name, "D")
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected 4 dimensions [N, M, L, {last}]"
            )
        if x.dtype not in FLOAT_DTYPES:
            raise TypeError(
                f"{name} has dtype {x.dtype}, expected float32, bfloat16, float16 or float64"
            )
        if 0 in x.shape[1:]:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}: all but the first must be at least 1"
            )
        check_same_device(name, x, "q", q)
    n, heads, queries, depth = q.shape
    keys = bias_h.shape[3] * bias_w.shape[3]
    check_shape("k", k, (n, heads, keys, depth), "N, M and D of q; Hk Wk of the biases")
    check_shape("v", v, (n, heads, keys, depth), "N, M and D of q; Hk Wk of the biases")
    check_shape("bias_h", bias_h, (n, heads, queries, bias_h.shape[3]), "N, M and Lq of q")
    check_shape("bias_w", bias_w, (n, heads, queries, bias_w.shape[3]), "N, M and Lq of q")


def _check_backward(grad_out: torch.Tensor, *inputs: Any) -> None:
    _check(*inputs)
    check_shape("grad_out", grad_out, tuple(inputs[0].shape), "as q")


def _fake(q: torch.Tensor, *rest: Any) -> torch.Tensor:
    return q.new_empty(q.shape)


def _fake_backward(grad_out: torch.Tensor, *inputs: Any) -> tuple[torch.Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in inputs[:5])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs[:5])
    ctx.scale = inputs[5]


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    backward = torch.ops.fastseg.attention_2d_bias_backward
    return (*backward(grad_out, *ctx.saved_tensors, ctx.scale), None)


attention_2d_bias_op = define(
    OpSpec(
        name="attention_2d_bias",
        functions={
            "": Function(
                schema=f"({_TENSORS}) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, tangent_by_definition(reference.forward)),
                batched=("q", "k", "v", "bias_h", "bias_w"),
            ),
            "_backward": Function(
                schema=f"(Tensor grad_out, {_TENSORS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
                check=_check_backward,
                fake=_fake_backward,
                autograd=by_definition(reference.backward),
                implementation="backward",
                batched=("grad_out", "q", "k", "v", "bias_h", "bias_w"),
            ),
        },
        backends={Backend.TORCH: torch_blocks, Backend.REFERENCE: reference},
    )
)
