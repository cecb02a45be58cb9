"""2-D convolution with any dilation: fast depthwise kernels, torch's own for dense ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .branches import conv_branches
from .geometry import pair, same_padding
from .op import dilated_conv2d_op

__all__ = ["conv_branches", "dilated_conv2d"]


def dilated_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Convolves a map; zero padding is skipped, not multiplied.

    The same function as F.conv2d with the same arguments:
    out[n, o, y, x] = bias[o] + sum over c, i, j of weight[o, c, i, j] * in[n, g(o) + c,
    y * stride - padding + i * dilation, x * stride - padding + j * dilation].
    Depthwise convolutions (groups == C_in == C_out) run on the native kernels, whose backward
    computes all gradients in one pass over x and the gradient of the result; the others run on
    torch's, or on a GPU on Triton's where those were measured to be faster. The result has the
    memory format of x. Under autocast the op runs in the autocast dtype, as F.conv2d does; it
    accumulates in float32.

    Args:
        x: map [N, C_in, H, W]; float32, bfloat16, float16 or float64; N may be 0.
        weight: [C_out, C_in / groups, kernel_h, kernel_w], same dtype and device as x.
        bias: [C_out] or None.
        stride: at least 1; one int for both axes or (vertical, horizontal), as the next two.
        padding: zeros added to every border, at least 0; or "valid" (none) or "same" (as many as
            keep the size: stride 1 only; where that is odd, the larger half goes to the bottom and
            right).
        dilation: distance of the taps, at least 1.
        groups: divides C_in and C_out.

    Returns:
        Map [N, C_out, H_out, W_out], H_out = (H + 2 * padding - dilation * (kernel_h - 1) - 1) //
        stride + 1.

    Raises:
        ValueError: a shape that does not fit, mixed devices, numbers out of range, result without
            pixels.
        TypeError: dtype of x, or a weight or bias of another dtype.
    """
    strides, dilations = pair("stride", stride), pair("dilation", dilation)
    if isinstance(padding, str):
        paddings, extra = same_padding(padding, weight, strides, dilations)
        if any(extra):
            x = F.pad(x, (0, extra[1], 0, extra[0]))
    else:
        paddings = pair("padding", padding)
    return dilated_conv2d_op(x, weight, bias, strides, paddings, dilations, groups)
