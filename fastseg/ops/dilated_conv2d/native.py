"""dilated_conv2d through the native core: depthwise convolutions, in C++ and CUDA C++."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ... import _native
from ...layout import empty_map, map_format
from .geometry import output_size

_NAME = "dilated_conv2d"


def unsupported_reason(
    function: str, *, x: torch.Tensor, weight: torch.Tensor, groups: int, **_: Any
) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    if not groups == x.shape[1] == weight.shape[0]:
        return (
            f"{x.shape[1]} channels to {weight.shape[0]} in {groups} groups "
            "(supported: depthwise, groups == C_in == C_out)"
        )
    return _native.unsupported_reason(x, cuda=True)


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """Map [N, C, H_out, W_out]."""
    out = empty_map(x, x.shape[1], output_size(x, weight, stride, padding, dilation))
    if out.numel() == 0:
        return out
    _native.with_huge_pages(out)
    layout = map_format(x)
    x, weight = x.contiguous(memory_format=layout), weight.contiguous()
    bias = bias.contiguous() if bias is not None else None
    _native.launch(
        _native.core(_NAME),
        "forward",
        x,
        _native.dtype_code(x),
        x.data_ptr(),
        weight.data_ptr(),
        _native.address(bias),
        out.data_ptr(),
        _shape(x, weight, out, stride, padding, dilation, layout),
    )
    return out


def backward(
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_mask: list[bool],
) -> tuple[torch.Tensor, ...]:
    """Gradients to x, weight and bias; empty where output_mask says that they are not needed."""
    layout = map_format(x)
    grad_x = empty_map(x, x.shape[1], x.shape[2:]) if output_mask[0] else x.new_empty(0)
    grad_weight = _empty_like(x, weight.shape if output_mask[1] else (0,))
    grad_bias = _empty_like(x, weight.shape[:1] if output_mask[2] else (0,))
    if x.numel() == 0:
        return grad_x, grad_weight.zero_(), grad_bias.zero_()
    _native.with_huge_pages(grad_x)
    grad_out, x = (t.contiguous(memory_format=layout) for t in (grad_out, x))
    weight = weight.contiguous()
    code, shape = (
        _native.dtype_code(x),
        _shape(x, weight, grad_out, stride, padding, dilation, layout),
    )
    workspace_bytes = _native.launch(_native.core(_NAME), "workspace_bytes", x, code, shape)
    workspace = torch.empty(workspace_bytes, dtype=torch.uint8, device=x.device)
    _native.launch(
        _native.core(_NAME),
        "backward",
        x,
        code,
        grad_out.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        _native.address(grad_x),
        _native.address(grad_weight),
        _native.address(grad_bias),
        workspace.data_ptr(),
        shape,
    )
    return grad_x, grad_weight, grad_bias


def _empty_like(x: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Dtype and device of x."""
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _shape(
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    layout: torch.memory_format,
) -> Any:
    return _native.core(_NAME).Shape(
        batch=x.shape[0],
        channels=x.shape[1],
        in_size=tuple(x.shape[2:]),
        out_size=tuple(out.shape[2:]),
        kernel=tuple(weight.shape[2:]),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        channels_last=layout is torch.channels_last,
    )
