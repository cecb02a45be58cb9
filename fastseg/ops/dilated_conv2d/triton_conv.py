"""dilated_conv2d through Triton: dense convolutions with stride 1 on tensor cores.

Zeros of the padding that lie in a tile beside pixels of the map are multiplied, as cuDNN does: an
infinite weight meets them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ... import _triton
from .geometry import output_size
from .measured import prefers_triton
from .triton_tiles import Taps


def unsupported_reason(
    function: str,
    *,
    x: torch.Tensor,
    grad_out: torch.Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    groups: int = 1,
    **_: Any,
) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    if groups != 1:
        return f"groups is {groups} (supported: 1)"
    if list(stride) != [1, 1]:
        return f"stride is {tuple(stride)} (supported: 1)"
    channels = [t.shape[1] for t in (x, grad_out) if t is not None]
    if x.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"dtype {x.dtype} (supported: float32, bfloat16, float16)"
    if x.numel() == 0:
        return "x is empty"
    reason = _triton.unsupported_reason(x)
    if reason is not None or x.device.type == "cpu":
        return reason
    if _triton.capability(x.device) >= (9, 0):
        if any(c * x.element_size() % 16 for c in channels):
            return f"{channels} channels of {x.dtype} (supported: pixels of a multiple of 16 bytes)"
    elif any(c % 16 for c in channels):  # loads one by one, of which registers would spill
        return f"{channels} channels (supported on this GPU: multiples of 16)"
    return None


def passed_over(function: str, *, x: torch.Tensor, **arguments: Any) -> str | None:
    """Why torch's own kernel runs although this one could: it was not measured to be faster."""
    if x.device.type != "cuda":
        return "the interpreter is for tests"
    if function == "branches":
        weights = arguments["weights"]
        kernels = [_pair(w.shape[2:]) for w in weights]
        taps = tuple(map(_same_taps, kernels, arguments["dilations"]))
        out_channels, size = weights[0].shape[0], list(x.shape[2:])
    else:
        weight, padding, dilation = (arguments[n] for n in ("weight", "padding", "dilation"))
        taps = (Taps.of_forward(_pair(weight.shape[2:]), _pair(padding), _pair(dilation)),)
        out_channels = weight.shape[0]
        size = output_size(x, weight, [1, 1], padding, dilation)
    if prefers_triton(function, x, out_channels, _pair(size), taps):
        return None
    return "not measured to be faster here (tools/measure_dense_conv.py)"


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """Map [N, C_out, H_out, W_out] in channels_last."""
    from .triton_launch import convolve

    size = output_size(x, weight, stride, padding, dilation)
    out = _empty(x, weight.shape[0], size)
    taps = Taps.of_forward(_pair(weight.shape[2:]), _pair(padding), _pair(dilation))
    convolve(_dense(x), [_dense(weight)], (taps,), out, shift=_vector(bias))
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
    from .triton_launch import convolve, weight_gradient

    kernel, pads, rates = _pair(weight.shape[2:]), _pair(padding), _pair(dilation)
    grad_x, grad_weight, grad_bias = (x.new_empty(0) for _ in range(3))
    if output_mask[0] or output_mask[1]:
        grad = _dense(grad_out)
    if output_mask[0]:
        grad_x = _empty(x, x.shape[1], x.shape[2:])
        factor = _dense(weight.transpose(0, 1))
        convolve(grad, [factor], (Taps.of_gradient(kernel, pads, rates),), grad_x)
    if output_mask[1]:
        taps = Taps.of_forward(kernel, pads, rates)
        grad_weight = weight_gradient(grad, _dense(x), kernel, taps)
    if output_mask[2]:
        grad_bias = grad_out.sum((0, 2, 3))
    return grad_x, grad_weight, grad_bias


def branches(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    dilations: list[int],
    limit: float,
) -> torch.Tensor:
    """Map [N, len(weights) * C_out, H, W] in channels_last: one launch for four branches."""
    from .triton_launch import MAX_BRANCHES, convolve

    out_channels = weights[0].shape[0]
    out = _empty(x, len(weights) * out_channels, x.shape[2:])
    source = _dense(x)
    for begin in range(0, len(weights), MAX_BRANCHES):
        group = weights[begin : begin + MAX_BRANCHES]
        taps = tuple(
            _same_taps(_pair(w.shape[2:]), d)
            for w, d in zip(group, dilations[begin:], strict=False)
        )
        part = slice(begin * out_channels, (begin + len(group)) * out_channels)
        convolve(
            source,
            [_dense(w) for w in group],
            taps,
            out[:, part],
            _vector(scale[part] if scale is not None else None),
            _vector(shift[part] if shift is not None else None),
            limit,
        )
    return out


def _same_taps(kernel: tuple[int, int], dilation: int) -> Taps:
    """Of a convolution that keeps the size."""
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    return Taps.of_forward(kernel, padding, (dilation, dilation))


def _pair(values: Any) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)


def _vector(x: torch.Tensor | None) -> torch.Tensor | None:
    return None if x is None else x.contiguous()


def _empty(x: torch.Tensor, channels: int, size: Any) -> torch.Tensor:
    return torch.empty(
        (x.shape[0], channels, *size),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def _dense(x: torch.Tensor) -> torch.Tensor:
    """x in channels_last and at an address that tensor descriptors take."""
    x = x.contiguous(memory_format=torch.channels_last)
    return x if x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.channels_last)
