"""The contract of upsample_taps: schema, fake, derivatives, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import check_map, check_same_device, check_shape, check_size
from ...backends import Backend
from ...derivatives import Autograd, multilinear
from ...layout import empty_map, map_format
from ...registry import Function, OpSpec, define
from . import native, reference

_RESIZE = "int kernel, bool nearest, bool align_corners"
_NAMES = ("x", "x2", "x3", "x4")
_ADDED = (*_NAMES[1:], "added")


def _check_resize(kernel: int, nearest: bool, align_corners: bool) -> None:
    if kernel not in (1, 3):
        raise ValueError(f"kernel is {kernel}, expected 1 or 3")
    if nearest and align_corners:
        raise ValueError("align_corners is True, but mode 'nearest' has no corners to align")


def _check_like_x(name: str, tensor: torch.Tensor, x: torch.Tensor) -> None:
    check_map(name, tensor)
    check_same_device(name, tensor, "x", x)
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {x.dtype} as x")


def _check(
    x: torch.Tensor,
    x2: torch.Tensor | None,
    x3: torch.Tensor | None,
    x4: torch.Tensor | None,
    added: torch.Tensor | None,
    size: list[int],
    kernel: int,
    nearest: bool,
    align_corners: bool,
) -> None:
    check_map("x", x)
    _check_resize(kernel, nearest, align_corners)
    check_size(size)
    if x.shape[1] % kernel**2 != 0:
        raise ValueError(
            f"x has {x.shape[1]} channels, expected a multiple of {kernel**2}: each tap's channels"
        )
    for name, other in zip(_NAMES[1:], (x2, x3, x4), strict=True):
        if other is not None:
            _check_like_x(name, other, x)
            check_shape(name, other, (*x.shape[:2], *other.shape[2:]), "batch and taps as x")
    if added is not None:
        _check_like_x("added", added, x)
        shape = (x.shape[0], x.shape[1] // kernel**2, *size)
        check_shape("added", added, shape, "that of the result")


def _format(x: torch.Tensor, *args: Any) -> torch.memory_format:
    added = args[3]  # a source of one pixel, as pyramids have, has no format to go by
    return map_format(x if added is None else added)


def _fake(x: torch.Tensor, *args: Any) -> torch.Tensor:
    added, size, kernel = args[3:6]
    return empty_map(x if added is None else added, x.shape[1] // kernel**2, size)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.resize = inputs[6:]
    ctx.sources = [
        None if x is None else (x.shape[2:], map_format(x) is torch.channels_last)
        for x in inputs[:4]
    ]


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    grads = [
        upsample_taps_backward_op(grad_out, *source, *ctx.resize) if source and needed else None
        for source, needed in zip(ctx.sources, ctx.needs_input_grad[:4], strict=True)
    ]
    return *grads, grad_out if ctx.needs_input_grad[4] else None, None, None, None, None


def _check_backward(
    grad_out: torch.Tensor,
    input_size: list[int],
    channels_last: bool,
    kernel: int,
    nearest: bool,
    align_corners: bool,
) -> None:
    check_map("grad_out", grad_out)
    check_size(input_size)
    _check_resize(kernel, nearest, align_corners)


def _gradient_format(
    grad_out: torch.Tensor, input_size: list[int], channels_last: bool, *_: Any
) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _fake_backward(
    grad_out: torch.Tensor, input_size: list[int], channels_last: bool, kernel: int, *_: Any
) -> torch.Tensor:
    n, channels = grad_out.shape[:2]
    layout = _gradient_format(grad_out, input_size, channels_last)
    shape = (n, kernel**2 * channels, *input_size)
    return torch.empty(shape, dtype=grad_out.dtype, device=grad_out.device, memory_format=layout)


# The op is linear: the derivative of its adjoint is the op again.
def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    grad_out, _, _, *ctx.resize = inputs
    ctx.size = grad_out.shape[2:]


def _double_backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
    again = upsample_taps_op(grad, None, None, None, None, ctx.size, *ctx.resize)
    return again, None, None, None, None, None


upsample_taps_op = define(
    OpSpec(
        name="upsample_taps",
        functions={
            "": Function(
                schema="(Tensor x, Tensor? x2, Tensor? x3, Tensor? x4, Tensor? added, "
                f"SymInt[] size, {_RESIZE}) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, multilinear("x", added=_ADDED)),
                batched=("x", *_ADDED),
                layout=_format,
            ),
            "_backward": Function(
                schema="(Tensor grad_out, SymInt[] input_size, bool channels_last, "
                f"{_RESIZE}) -> Tensor",
                check=_check_backward,
                fake=_fake_backward,
                autograd=Autograd(_setup_backward, _double_backward, multilinear("grad_out")),
                batched=("grad_out",),
                implementation="backward",
                layout=_gradient_format,
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
    )
)
upsample_taps_backward_op = torch.ops.fastseg.upsample_taps_backward.default
