"""The contract of upsample_class_sums: schema, fake, derivative, backends."""

from __future__ import annotations

import math
from typing import Any

import torch

from ..._checks import (
    FLOAT_DTYPES,
    LABEL_DTYPES,
    check_map,
    check_same_device,
    check_shape,
    check_size,
    check_target,
)
from ...backends import Backend
from ...derivatives import Autograd, by_definition, tangent_by_definition
from ...layout import map_format
from ...registry import Function, OpSpec, define
from . import native, reference
from .sums import NAMES, ONLY_LABELS, ONLY_SHARES, ONLY_SIGMOID, ONLY_SOFTMAX

_OPTIONS = (
    "Tensor logits, Tensor target, Tensor? pixel_weight, int[] sums, str activation, "
    "SymInt[]? size, int ignore_index, float gamma, float reduced_threshold, bool align_corners"
)


def _check(
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
) -> None:
    check_map("logits", logits)
    if activation not in ("softmax", "sigmoid"):
        raise ValueError(f"activation is {activation!r}, allowed are 'softmax' and 'sigmoid'")
    if size is not None:
        check_size(size)
        _check_teacher(target, logits, activation)
    elif target.dim() == 4:
        _check_values(target, logits)
    else:
        check_target(target, logits)
    if pixel_weight is not None:
        if not pixel_weight.is_floating_point():
            raise TypeError(f"pixel_weight has dtype {pixel_weight.dtype}, expected floating point")
        full = target.shape[-2:] if size is None else size
        check_shape("pixel_weight", pixel_weight, (logits.shape[0], *full), "one for each pixel")
        check_same_device("pixel_weight", pixel_weight, "logits", logits)
    _check_sums([NAMES[k] for k in sums], activation, target.dim() == 3)
    if not (gamma >= 0.0 and math.isfinite(gamma)):
        raise ValueError(f"gamma is {gamma}, expected a finite number of at least 0")
    if not 0.0 <= reduced_threshold <= 1.0:
        raise ValueError(f"reduced_threshold is {reduced_threshold}, expected a number in [0, 1]")


def _check_sums(names: list[str], activation: str, labels: bool) -> None:
    if not names:
        raise ValueError("sums is empty, expected at least one name")
    if len(set(names)) != len(names):
        raise ValueError(f"sums is {names}: a name occurs twice")
    for name in names:
        if name in (ONLY_SIGMOID if activation == "softmax" else ONLY_SOFTMAX):
            raise ValueError(f"sums has {name!r}, which {activation} does not have")
        if name in ONLY_SHARES and labels:
            raise ValueError(f"sums has {name!r}, which targets [N, H, W] do not have")
        if name in ONLY_LABELS and activation == "softmax" and not labels:
            raise ValueError(f"sums has {name!r}, which with softmax needs a target [N, H, W]")


def _check_values(target: torch.Tensor, logits: torch.Tensor) -> None:
    if target.dtype not in (*FLOAT_DTYPES, *LABEL_DTYPES):
        raise TypeError(
            f"target has dtype {target.dtype}, expected floating point, int64, int32 or uint8"
        )
    expected = (*logits.shape[:2], *target.shape[2:])
    check_shape("target", target, expected, "batch and classes of logits")
    if target.shape[2] == 0 or target.shape[3] == 0:
        raise ValueError(
            f"target has shape {tuple(target.shape)}: height and width must be at least 1"
        )
    check_same_device("target", target, "logits", logits)


def _check_teacher(target: torch.Tensor, logits: torch.Tensor, activation: str) -> None:
    check_map("target", target)
    check_shape(
        "target", target, (*logits.shape[:2], *target.shape[2:]), "batch and classes of logits"
    )
    if activation != "softmax":
        raise ValueError(f"activation is {activation!r}, logits as targets need 'softmax'")
    check_same_device("target", target, "logits", logits)


def _fake(
    logits: torch.Tensor, target: torch.Tensor, pixel_weight: Any, sums: list[int], *_: Any
) -> torch.Tensor:
    return logits.new_empty((logits.shape[0], len(sums), logits.shape[1]), dtype=torch.float64)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    logits, target, pixel_weight, *ctx.options = inputs
    if any(ctx.needs_input_grad[1:3]):
        raise NotImplementedError("target and pixel_weight have no derivative: detach them")
    ctx.save_for_backward(logits, target, pixel_weight)


def _backward(ctx: Any, grad_sums: torch.Tensor) -> tuple[Any, ...]:
    gradient = torch.ops.fastseg.upsample_class_sums_backward(
        grad_sums, *ctx.saved_tensors, *ctx.options
    )
    return gradient, *(None,) * 9


def _check_backward(grad_sums: torch.Tensor, logits: torch.Tensor, *rest: Any) -> None:
    _check(logits, *rest)
    expected = (logits.shape[0], len(rest[2]), logits.shape[1])
    check_shape("grad_sums", grad_sums, expected, "as the sums")


def _fake_backward(grad_sums: torch.Tensor, logits: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(logits, memory_format=map_format(logits))


_tangent = tangent_by_definition(reference.sums_of_pixels)

upsample_class_sums_op = define(
    OpSpec(
        name="upsample_class_sums",
        functions={
            # Float64 [N, len(sums), C]; `sums` are places in sums.NAMES. With `size`, target is a
            # teacher's logits, and the sums are over a map of this size.
            "": Function(
                schema=f"({_OPTIONS}) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(
                    _setup, _backward, tangent_by_definition(reference.sums_of_pixels)
                ),
                batched=("logits", "target", "pixel_weight"),
            ),
            "_backward": Function(
                schema=f"(Tensor grad_sums, {_OPTIONS}) -> Tensor",
                check=_check_backward,
                fake=_fake_backward,
                autograd=by_definition(reference.gradient_of_logits),
                batched=("grad_sums", "logits", "target", "pixel_weight"),
                implementation="backward",
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
