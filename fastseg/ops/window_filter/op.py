"""The contract of window_filter: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import check_map, check_same_device, check_shape
from ...backends import Backend
from ...derivatives import Autograd, by_argument, by_definition, multilinear
from ...layout import empty_map, map_format
from ...registry import Function, OpSpec, define
from . import native, reference

# Sizes of windows still fit in 64 bits then.
_MAX_RADIUS = 2**31


def _check(values: torch.Tensor, features: torch.Tensor, radius: int) -> None:
    check_map("values", values)
    check_map("features", features)
    check_same_device("features", features, "values", values)
    if features.dtype != values.dtype:
        raise TypeError(f"features has dtype {features.dtype}, expected {values.dtype} as values")
    expected = (values.shape[0], features.shape[1], *values.shape[2:])
    check_shape("features", features, expected, "N, H and W of values")
    if not 0 <= radius < _MAX_RADIUS:
        raise ValueError(f"radius is {radius}, expected at least 0 and below 2**31")


def _fake(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    return empty_map(values, values.shape[1], values.shape[2:])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    values, features, ctx.radius = inputs
    ctx.save_for_backward(values, features)


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    values, features = ctx.saved_tensors
    if not ctx.needs_input_grad[1]:  # the weights are symmetric: the op is its own adjoint
        return window_filter_op(grad_out, features, ctx.radius), None, None
    backward = torch.ops.fastseg.window_filter_backward
    return *backward(grad_out, values, features, ctx.radius), None


def _check_backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, radius: int
) -> None:
    _check(values, features, radius)
    check_shape("grad_out", grad_out, tuple(values.shape), "as values")


def _fake_backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, radius: int
) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(empty_map(x, x.shape[1], x.shape[2:]) for x in (values, features))  # type: ignore[return-value]


def _gradient_formats(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, radius: int
) -> tuple[torch.memory_format, ...]:
    return map_format(values), map_format(features)


def _tangent_of_features(
    op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: torch.Tensor
) -> torch.Tensor:
    values, features, *rest = arguments.values()
    return reference.feature_tangent(values, features, tangents["features"], *rest)


_tangent = by_argument(values=multilinear("values"), features=_tangent_of_features)


window_filter_op = define(
    OpSpec(
        name="window_filter",
        functions={
            "": Function(
                schema="(Tensor values, Tensor features, SymInt radius) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, _tangent),
                batched=("values", "features"),
                layout=map_format,
            ),
            "_backward": Function(
                schema="(Tensor grad_out, Tensor values, Tensor features, SymInt radius)"
                " -> (Tensor, Tensor)",
                check=_check_backward,
                fake=_fake_backward,
                autograd=by_definition(reference.backward),
                implementation="backward",
                batched=("grad_out", "values", "features"),
                layout=_gradient_formats,
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
