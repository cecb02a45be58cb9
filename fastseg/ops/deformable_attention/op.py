"""The contract of deformable_attention: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import FLOAT_DTYPES, check_same_device, check_shape
from ...backends import Backend
from ...derivatives import Autograd, by_argument, by_definition, multilinear, tangent_by_definition
from ...dtypes import compute_dtype
from ...registry import Function, OpSpec, define
from . import native, reference

_MAX_SIDE = 2**30


def _check(
    value: torch.Tensor, shapes: list[int], locations: torch.Tensor, weights: torch.Tensor
) -> None:
    if value.dim() != 4:
        raise ValueError(f"value has shape {tuple(value.shape)}, expected [N, S, M, D]")
    if value.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"value has dtype {value.dtype}, expected float32, bfloat16, float16 or float64"
        )
    if value.shape[2] == 0 or value.shape[3] == 0:
        raise ValueError(
            f"value has shape {tuple(value.shape)}: heads and channels must be at least 1"
        )
    if len(shapes) == 0:
        raise ValueError("shapes is empty, expected at least one level")
    if min(shapes) < 0 or max(shapes) > _MAX_SIDE:
        raise ValueError(f"shapes is {_pairs(shapes)}, expected sides from 0 to 2**30")
    cells = sum(h * w for h, w in _pairs(shapes))
    if value.shape[1] != cells:
        raise ValueError(
            f"value has {value.shape[1]} cells, expected {cells}, as many as the levels "
            f"{_pairs(shapes)} of shapes have"
        )
    if locations.dim() != 6:
        raise ValueError(
            f"locations has shape {tuple(locations.shape)}, expected 6 dimensions "
            "[N, Lq, M, L, P, 2]"
        )
    n, _, m, _ = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    expected = (n, queries, m, len(shapes) // 2, points, 2)
    check_shape("locations", locations, expected, "N and M of value, L of shapes")
    check_shape("weights", weights, expected[:-1], "as locations")
    for name, x in (("locations", locations), ("weights", weights)):
        check_same_device(name, x, "value", value)
        if x.dtype not in (value.dtype, compute_dtype(value)):
            raise TypeError(
                f"{name} has dtype {x.dtype}, expected {value.dtype} as value"
                + (" or float32" if value.dtype in (torch.bfloat16, torch.float16) else "")
            )


def _pairs(shapes: list[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))


def _fake(
    value: torch.Tensor, shapes: list[int], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    n, _, m, d = value.shape
    return value.new_empty((n, locations.shape[1], m * d))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    value, locations, weights = ctx.saved_tensors
    backward = torch.ops.fastseg.deformable_attention_backward
    of_value, of_locations, of_weights = backward(grad_out, value, ctx.shapes, locations, weights)
    return of_value, None, of_locations, of_weights


def _check_backward(
    grad_out: torch.Tensor,
    value: torch.Tensor,
    shapes: list[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> None:
    _check(value, shapes, locations, weights)
    expected = (value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])
    check_shape("grad_out", grad_out, expected, "the result's shape")


def _fake_backward(
    grad_out: torch.Tensor,
    value: torch.Tensor,
    shapes: list[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        value.new_empty(value.shape),
        locations.new_empty(locations.shape),
        weights.new_empty(weights.shape),
    )


_tangent = by_argument(
    value=multilinear("value"),
    locations=tangent_by_definition(reference.forward),
    weights=multilinear("weights"),
)


deformable_attention_op = define(
    OpSpec(
        name="deformable_attention",
        functions={
            "": Function(
                schema="(Tensor value, SymInt[] shapes, Tensor locations, Tensor weights)"
                " -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, _tangent),
                batched=("value", "locations", "weights"),
            ),
            "_backward": Function(
                schema="(Tensor grad_out, Tensor value, SymInt[] shapes, Tensor locations,"
                " Tensor weights) -> (Tensor, Tensor, Tensor)",
                check=_check_backward,
                fake=_fake_backward,
                autograd=by_definition(reference.backward),
                implementation="backward",
                batched=("grad_out", "value", "locations", "weights"),
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
