"""The contract of upsample_bilinear: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import check_map, check_same_device, check_shape, check_size
from ...backends import Backend
from ...derivatives import Autograd, multilinear
from ...layout import empty_map, map_format
from ...registry import Function, OpSpec, define
from . import native, reference

_AXES = "bool align_corners, float? scale_h, float? scale_w"


def _check(
    x: torch.Tensor,
    size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> None:
    check_map("x", x)
    check_size(size)


def _fake(x: torch.Tensor, size: list[int], *_: Any) -> torch.Tensor:
    return empty_map(x, x.shape[1], size)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, ctx.size, *ctx.axes = inputs
    ctx.input_size = x.shape[2:]


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    grad_x = torch.ops.fastseg.upsample_bilinear_backward(grad_out, ctx.input_size, *ctx.axes)
    return grad_x, None, None, None, None


def _check_backward(grad_out: torch.Tensor, input_size: list[int], *_: Any) -> None:
    check_map("grad_out", grad_out)
    check_size(input_size)


# The op is linear: the derivative of its adjoint is the op again.
def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    grad_out, _, *ctx.axes = inputs
    ctx.size = grad_out.shape[2:]


def _double_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return upsample_bilinear_op(grad, ctx.size, *ctx.axes), None, None, None, None


def _check_out(
    x: torch.Tensor,
    size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
    out: torch.Tensor,
) -> None:
    _check(x, size, align_corners, scale_h, scale_w)
    check_same_device("out", out, "x", x)
    check_shape("out", out, (*x.shape[:2], *size), "from x and size")
    if out.dtype != x.dtype:
        raise TypeError(f"out has dtype {out.dtype}, expected {x.dtype} as x")
    if not out.is_contiguous(memory_format=map_format(x)):
        raise ValueError(f"out has strides {out.stride()}, expected the {map_format(x)} of x")


upsample_bilinear_op = define(
    OpSpec(
        name="upsample_bilinear",
        functions={
            "": Function(
                schema=f"(Tensor x, SymInt[] size, {_AXES}) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, multilinear("x")),
                batched=("x",),
                layout=map_format,
            ),
            "_backward": Function(
                schema=f"(Tensor grad_out, SymInt[] input_size, {_AXES}) -> Tensor",
                check=_check_backward,
                fake=_fake,
                autograd=Autograd(_setup_backward, _double_backward, multilinear("grad_out")),
                batched=("grad_out",),
                implementation="backward",
                layout=map_format,
            ),
            "_out": Function(
                schema=f"(Tensor x, SymInt[] size, {_AXES}, Tensor(a!) out) -> ()",
                check=_check_out,
                fake=lambda *args: None,
                implementation="forward_out",
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
upsample_bilinear_out_op = torch.ops.fastseg.upsample_bilinear_out.default
