"""The contract of permutohedral_filter: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import FLOAT_DTYPES, check_same_device, check_shape
from ...backends import Backend
from ...derivatives import Autograd, by_argument, by_definition, multilinear
from ...registry import Function, OpSpec, define
from . import native, reference


def check_values(values: torch.Tensor) -> None:
    """`values` is [N, L, P], floating point, with something in it."""
    if values.dim() != 3:
        raise ValueError(f"values has shape {tuple(values.shape)}, expected 3 dimensions [N, L, P]")
    if values.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"values has dtype {values.dtype}, expected float32, bfloat16, float16 or float64"
        )
    if values.shape[1] == 0 or values.shape[2] == 0:
        raise ValueError(
            f"values has shape {tuple(values.shape)}: labels and pixels must be at least 1"
        )


def check_features(features: torch.Tensor) -> None:
    """`features` is [N, D, P], floating point, with at least one feature and pixel."""
    if features.dim() != 3:
        raise ValueError(
            f"features has shape {tuple(features.shape)}, expected 3 dimensions [N, D, P]"
        )
    if features.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"features has dtype {features.dtype}, expected float32, bfloat16, float16 or float64"
        )
    if features.shape[1] == 0:
        raise ValueError(f"features has shape {tuple(features.shape)}: D must be at least 1")
    if features.shape[2] == 0:
        raise ValueError(f"features has shape {tuple(features.shape)}: pixels must be at least 1")


def _check(values: torch.Tensor, features: torch.Tensor, transpose: bool) -> None:
    check_values(values)
    check_features(features)
    if features.dtype != values.dtype:
        raise TypeError(f"features has dtype {features.dtype}, expected {values.dtype} as values")
    if features.shape[2] != values.shape[2]:
        raise ValueError(f"features has {features.shape[2]} pixels, values has {values.shape[2]}")
    if features.shape[0] != values.shape[0] and features.shape[0] != 1:
        raise ValueError(
            f"features has batch size {features.shape[0]}, expected {values.shape[0]} as values "
            "or 1"
        )
    check_same_device("features", features, "values", values)


def _fake(values: torch.Tensor, features: torch.Tensor, transpose: bool) -> torch.Tensor:
    return values.new_empty(values.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    values, features, ctx.transpose = inputs
    ctx.save_for_backward(values, features)


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    values, features = ctx.saved_tensors
    ops = torch.ops.fastseg
    if not ctx.needs_input_grad[1]:
        return ops.permutohedral_filter(grad_out, features, not ctx.transpose), None, None
    grads = ops.permutohedral_filter_backward(grad_out, values, features, ctx.transpose)
    return *grads, None


def _check_backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, transpose: bool
) -> None:
    _check(values, features, transpose)
    check_shape("grad_out", grad_out, tuple(values.shape), "as values")


def _fake_backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, transpose: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    return values.new_empty(values.shape), features.new_empty(features.shape)


def _check_tangent(
    values: torch.Tensor, features: torch.Tensor, moved: torch.Tensor, transpose: bool
) -> None:
    _check(values, features, transpose)
    check_shape("moved", moved, tuple(features.shape), "as features")


def _tangent_of_features(
    op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: torch.Tensor
) -> torch.Tensor:
    values, features, *rest = arguments.values()
    moved = tangents["features"]
    return torch.ops.fastseg.permutohedral_filter_tangent(values, features, moved, *rest)


_tangent = by_argument(values=multilinear("values"), features=_tangent_of_features)


permutohedral_filter_op = define(
    OpSpec(
        name="permutohedral_filter",
        functions={
            "": Function(
                schema="(Tensor values, Tensor features, bool transpose) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, _tangent),
            ),
            # Gradients to values and features.
            "_backward": Function(
                schema="(Tensor grad_out, Tensor values, Tensor features, bool transpose) "
                "-> (Tensor, Tensor)",
                check=_check_backward,
                fake=_fake_backward,
                autograd=by_definition(reference.backward),
                implementation="backward",
            ),
            # How the result changes with the features: the derivative in forward mode.
            "_tangent": Function(
                schema="(Tensor values, Tensor features, Tensor moved, bool transpose) -> Tensor",
                check=_check_tangent,
                fake=lambda values, *_: values.new_empty(values.shape),
                autograd=by_definition(reference.feature_tangent),
                implementation="feature_tangent",
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
