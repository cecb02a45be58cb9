"""The contract of pyramid_pool: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import FLOAT_DTYPES, check_map, check_size
from ...backends import Backend
from ...derivatives import Autograd, multilinear
from ...layout import map_format
from ...registry import Function, OpSpec, define
from . import native, reference
from .cells import count_cells, empty_cells, empty_gradient


def _check_bins(bins: list[int], size: list[int] | torch.Size) -> None:
    if len(bins) == 0:
        raise ValueError("bins is empty, expected at least one grid")
    if min(bins) < 1 or max(bins) > size[0] or max(bins) > size[1]:
        raise ValueError(
            f"bins is {tuple(bins)} for a map of {size[0]} x {size[1]} pixels: each must be at "
            "least 1 and at most the smaller side of the map"
        )


def _check(x: torch.Tensor, bins: list[int]) -> None:
    check_map("x", x)
    _check_bins(bins, x.shape[2:])


def _fake(x: torch.Tensor, bins: list[int]) -> torch.Tensor:
    return empty_cells(x, bins)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, ctx.bins = inputs
    ctx.input_size = x.shape[2:]
    ctx.channels_last = map_format(x) is torch.channels_last


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    grad_x = torch.ops.fastseg.pyramid_pool_backward(
        grad_out, ctx.input_size, ctx.bins, ctx.channels_last
    )
    return grad_x, None


def _check_backward(
    grad_out: torch.Tensor, input_size: list[int], bins: list[int], channels_last: bool
) -> None:
    check_size(input_size)
    _check_bins(bins, input_size)
    shape = tuple(grad_out.shape)
    if len(shape) != 3 or shape[1] == 0 or shape[2] != count_cells(bins):
        raise ValueError(f"grad_out has shape {shape}, expected [N, C >= 1, {count_cells(bins)}]")
    if grad_out.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"grad_out has dtype {grad_out.dtype}, expected float32, bfloat16, float16 or float64"
        )


def _gradient_format(
    grad_out: torch.Tensor, input_size: list[int], bins: list[int], channels_last: bool
) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


# The op is linear: the derivative of its adjoint is the op again.
def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.bins = inputs[2]


def _double_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    return pyramid_pool_op(grad, ctx.bins), None, None, None


pyramid_pool_op = define(
    OpSpec(
        name="pyramid_pool",
        functions={
            "": Function(
                schema="(Tensor x, int[] bins) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, multilinear("x")),
                batched=("x",),
            ),
            "_backward": Function(
                schema="(Tensor grad_out, SymInt[] input_size, int[] bins, bool channels_last)"
                " -> Tensor",
                check=_check_backward,
                fake=empty_gradient,
                autograd=Autograd(_setup_backward, _double_backward, multilinear("grad_out")),
                batched=("grad_out",),
                implementation="backward",
                layout=_gradient_format,
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
