"""dilated_conv2d through torch's own convolution, called so that channels_last stays so.

For dense convolutions on the CPU (oneDNN, which skips taps in the padding) it runs at the speed of
the arithmetic units.
"""

from __future__ import annotations

import torch

from ...layout import map_format
from .branches import same_padding_of


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """Map [N, C_out, H_out, W_out]."""
    x, weight = (t.contiguous(memory_format=map_format(x)) for t in (x, weight))
    return torch.ops.aten.convolution.default(
        x, weight, bias, stride, padding, dilation, False, [0, 0], groups
    )


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
    grad_out, x, weight = (t.contiguous(memory_format=map_format(x)) for t in (grad_out, x, weight))
    grads = torch.ops.aten.convolution_backward.default(
        grad_out,
        x,
        weight,
        [weight.shape[0]],
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        groups,
        output_mask,
    )
    return tuple(x.new_empty(0) if g is None else g for g in grads)


def branches(
    x: torch.Tensor,
    weights: list[torch.Tensor],
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    dilations: list[int],
    limit: float,
) -> torch.Tensor:
    """Map [N, len(weights) * C_out, H, W]; the scale becomes part of the weights."""
    maps = []
    for i, (weight, dilation) in enumerate(zip(weights, dilations, strict=True)):
        part = slice(i * weight.shape[0], (i + 1) * weight.shape[0])
        if scale is not None:
            weight = (weight * scale[part].view(-1, 1, 1, 1)).to(x.dtype)
        bias = shift[part].to(x.dtype) if shift is not None else None
        padding = same_padding_of(weight, dilation)
        y = forward(x, weight, bias, [1, 1], padding, [dilation, dilation], 1)
        maps.append(y.clamp_(0.0, limit))
    return maps[0] if len(maps) == 1 else torch.cat(maps, 1)
