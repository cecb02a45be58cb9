"""The contract of gaussian_filter: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import FLOAT_DTYPES, check_same_device, check_shape
from ...backends import Backend
from ...derivatives import Autograd, by_argument, by_definition, multilinear
from ...registry import Function, OpSpec, define
from . import native, reference, triton_filter


def _check(values: torch.Tensor, features: torch.Tensor) -> None:
    for name, x, letter in (("values", values, "L"), ("features", features, "D")):
        if x.dim() != 3:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, expected 3 dimensions [N, {letter}, P]"
            )
        if x.dtype not in FLOAT_DTYPES:
            raise TypeError(
                f"{name} has dtype {x.dtype}, expected float32, bfloat16, float16 or float64"
            )
        if x.shape[1] == 0 or x.shape[2] == 0:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}: {letter} and P must be at least 1"
            )
    check_same_device("features", features, "values", values)
    expected = (values.shape[0], features.shape[1], values.shape[2])
    check_shape("features", features, expected, "N and P of values")


def _fake(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    return values.new_empty(values.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    values, features = ctx.saved_tensors
    if not ctx.needs_input_grad[1]:  # the weights are symmetric: the op is its own adjoint
        return gaussian_filter_op(grad_out, features), None
    return torch.ops.fastseg.gaussian_filter_backward(grad_out, values, features)


def _check_backward(grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor) -> None:
    _check(values, features)
    check_shape("grad_out", grad_out, tuple(values.shape), "as values")


def _fake_backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return values.new_empty(values.shape), features.new_empty(features.shape)


def _tangent_of_features(
    op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: torch.Tensor
) -> torch.Tensor:
    values, features, *rest = arguments.values()
    return reference.feature_tangent(values, features, tangents["features"], *rest)


_tangent = by_argument(values=multilinear("values"), features=_tangent_of_features)


gaussian_filter_op = define(
    OpSpec(
        name="gaussian_filter",
        functions={
            "": Function(
                schema="(Tensor values, Tensor features) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, _tangent),
                batched=("values", "features"),
            ),
            "_backward": Function(
                schema="(Tensor grad_out, Tensor values, Tensor features) -> (Tensor, Tensor)",
                check=_check_backward,
                fake=_fake_backward,
                autograd=by_definition(reference.backward),
                implementation="backward",
                batched=("grad_out", "values", "features"),
            ),
        },
        backends={
            Backend.NATIVE: native,
            Backend.TRITON: triton_filter,
            Backend.REFERENCE: reference,
        },
    )
)
