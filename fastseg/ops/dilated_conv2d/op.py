"""The contract of dilated_conv2d: schema, fake, derivatives, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import check_map, check_same_device, check_shape
from ...backends import Backend
from ...derivatives import Autograd, multilinear
from ...layout import empty_map, map_format
from ...registry import Function, OpSpec, define
from . import native, reference, torch_conv, triton_conv
from .branches import BRANCHES
from .geometry import output_size

_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
# Numbers that products with a map size still fit in 64 bits with.
_LIMIT = 2**31


def _check_like_x(name: str, tensor: torch.Tensor, x: torch.Tensor) -> None:
    check_same_device(name, tensor, "x", x)
    if tensor.dtype != x.dtype:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {x.dtype} as x")


def _check_pair(name: str, value: list[int], least: int) -> None:
    if len(value) != 2:
        raise ValueError(f"{name} has {len(value)} numbers, expected 2 (vertical, horizontal)")
    if min(value) < least or max(value) >= _LIMIT:
        raise ValueError(f"{name} is {tuple(value)}, expected at least {least} and below 2**31")


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> None:
    check_map("x", x)
    if weight.dim() != 4 or 0 in weight.shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected 4 dimensions "
            "[C_out, C_in / groups, kernel_h, kernel_w] of at least 1"
        )
    _check_like_x("weight", weight, x)
    _check_pair("stride", stride, 1)
    _check_pair("padding", padding, 0)
    _check_pair("dilation", dilation, 1)
    if groups < 1 or x.shape[1] % groups != 0 or weight.shape[0] % groups != 0:
        raise ValueError(
            f"groups is {groups}, expected a common divisor of the {x.shape[1]} channels of x and "
            f"the {weight.shape[0]} of weight"
        )
    check_shape(
        "weight",
        weight,
        (weight.shape[0], x.shape[1] // groups, *weight.shape[2:]),
        f"x has {x.shape[1]} channels and groups is {groups}",
    )
    if bias is not None:
        _check_like_x("bias", bias, x)
        check_shape("bias", bias, (weight.shape[0],), "the first dimension of weight")
    size = output_size(x, weight, stride, padding, dilation)
    if size[0] < 1 or size[1] < 1:
        raise ValueError(
            f"x has {x.shape[2]} x {x.shape[3]} pixels, too few for a kernel of "
            f"{weight.shape[2]} x {weight.shape[3]} with dilation {tuple(dilation)} and padding "
            f"{tuple(padding)}: the result would have size {tuple(size)}"
        )


def _fake(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    return empty_map(x, weight.shape[0], output_size(x, weight, stride, padding, dilation))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, _, *ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
    mask = list(ctx.needs_input_grad[:3])
    grads = dilated_conv2d_backward_op(grad_out, *ctx.saved_tensors, *ctx.geometry, mask)
    return *_wanted(grads, mask), None, None, None, None


def _wanted(grads: tuple[torch.Tensor, ...], mask: list[bool]) -> list[torch.Tensor | None]:
    return [g if m else None for g, m in zip(grads, mask, strict=True)]


def _check_backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_mask: list[bool],
) -> None:
    _check(x, weight, None, stride, padding, dilation, groups)
    _check_like_x("grad_out", grad_out, x)
    size = output_size(x, weight, stride, padding, dilation)
    check_shape("grad_out", grad_out, (x.shape[0], weight.shape[0], *size), "of the result")
    if len(output_mask) != 3:
        raise ValueError(f"output_mask has {len(output_mask)} values, expected 3 (x, weight, bias)")


def _fake_backward(
    grad_out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, ...]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    formats = _gradient_formats(grad_out, x, weight, *args)
    return tuple(
        torch.empty(shape if wanted else (0,), dtype=x.dtype, device=x.device, memory_format=layout)
        for shape, layout, wanted in zip(shapes, formats, args[-1], strict=True)
    )


def _gradient_formats(
    grad_out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, *args: Any
) -> tuple[torch.memory_format, ...]:
    output_mask = args[-1]
    formats = (map_format(x), map_format(weight), torch.contiguous_format)
    return tuple(
        f if m else torch.contiguous_format for f, m in zip(formats, output_mask, strict=True)
    )


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad_out, x, weight, *ctx.geometry, ctx.mask = inputs
    ctx.save_for_backward(grad_out, x, weight)


# Every result is linear in each of its factors, so its derivatives are the op and its backward
# again, with the incoming gradient in the place of a factor.
def _double_backward(
    ctx: Any, grad_x: torch.Tensor, grad_weight: torch.Tensor, grad_bias: torch.Tensor
) -> tuple[Any, ...]:
    grad_out, x, weight = ctx.saved_tensors
    to_grad_out = to_x = to_weight = None
    with_x, with_weight, with_bias = ctx.mask
    if ctx.needs_input_grad[0]:
        terms = []
        bias = grad_bias if with_bias else None
        if with_x:
            terms.append(dilated_conv2d_op(grad_x, weight, bias, *ctx.geometry))
            bias = None
        if with_weight:
            terms.append(dilated_conv2d_op(x, grad_weight, bias, *ctx.geometry))
            bias = None
        if bias is not None:
            terms.append(bias[:, None, None].expand_as(grad_out))
        to_grad_out = sum(terms[1:], terms[0]) if terms else None
    if ctx.needs_input_grad[1] and with_weight:
        to_x = dilated_conv2d_backward_op(
            grad_out, x, grad_weight, *ctx.geometry, [True, False, False]
        )[0]
    if ctx.needs_input_grad[2] and with_x:
        to_weight = dilated_conv2d_backward_op(
            grad_out, grad_x, weight, *ctx.geometry, [False, True, False]
        )[1]
    return to_grad_out, to_x, to_weight, None, None, None, None, None


# Which of the gradients to x, weight and bias each factor has a part in.
_PARTS = {
    "grad_out": (True, True, True),
    "x": (False, True, False),
    "weight": (True, False, False),
}


def _tangent_of_backward(
    op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: Any
) -> tuple[torch.Tensor | None, ...]:
    """The product rule, with only those gradients of each term that the moved factor is in."""
    totals: list[torch.Tensor | None] = [None, None, None]
    for name, moved in tangents.items():
        parts = zip(_PARTS[name], arguments["output_mask"], strict=True)
        mask = [part and wanted for part, wanted in parts]
        terms = op(*{**arguments, name: moved, "output_mask": mask}.values())
        for i in (i for i in range(3) if mask[i]):
            total = totals[i]
            totals[i] = terms[i] if total is None else total + terms[i]
    return tuple(totals)


dilated_conv2d_op = define(
    OpSpec(
        name="dilated_conv2d",
        functions={
            "": Function(
                schema=f"(Tensor x, Tensor weight, Tensor? bias, {_GEOMETRY}) -> Tensor",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, multilinear("x", "weight", added=("bias",))),
                batched=("x",),
                layout=map_format,
            ),
            "_backward": Function(
                schema=f"(Tensor grad_out, Tensor x, Tensor weight, {_GEOMETRY}, "
                "bool[] output_mask) -> (Tensor, Tensor, Tensor)",
                check=_check_backward,
                fake=_fake_backward,
                autograd=Autograd(_setup_backward, _double_backward, _tangent_of_backward),
                implementation="backward",
                layout=_gradient_formats,
            ),
            "_branches": BRANCHES,
        },
        backends={
            Backend.NATIVE: native,
            Backend.TRITON: triton_conv,
            Backend.TORCH: torch_conv,
            Backend.REFERENCE: reference,
        },
        autocast="lower precision",
    )
)
dilated_conv2d_backward_op = torch.ops.fastseg.dilated_conv2d_backward.default
