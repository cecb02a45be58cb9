"""Convolutions as modules."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .._private_torch import convolution_and_activation, onednn_has_bfloat16
from ..ops.dilated_conv2d import conv_branches, dilated_conv2d
from .altered import original_class, readable


@readable
class DilatedConv2d(nn.Conv2d):
    """nn.Conv2d whose forward is fastseg.dilated_conv2d: same arguments, parameters and values.

    Args:
        device, dtype: of the parameters, as in nn.Conv2d.

    Raises:
        ValueError: padding_mode other than "zeros".
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H', W'] in x's memory format."""
        return convolve(self, x, self.weight, self.bias)


CONVOLUTIONS = (nn.Conv2d, DilatedConv2d)


def is_convolution(module: Any) -> bool:
    """Whether a module is PyTorch's convolution or ours, by its class alone."""
    return original_class(module) in CONVOLUTIONS


def is_ours(convolution: nn.Conv2d) -> bool:
    """Whether a convolution computes by dilated_conv2d: a DilatedConv2d, or an accelerated one."""
    return type(convolution) is not nn.Conv2d


def convolve(
    convolution: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The convolution of a module, with another weight and bias.

    Raises:
        ValueError: padding_mode other than "zeros".
    """
    if convolution.padding_mode != "zeros":
        raise ValueError(f"padding_mode is {convolution.padding_mode!r}, allowed is 'zeros'")
    function: Any = dilated_conv2d if is_ours(convolution) else F.conv2d
    return function(
        x,
        weight,
        bias,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )


def convolve_and_clamp(
    convolution: nn.Conv2d,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    limit: float,
) -> torch.Tensor:
    """`convolve`, then ReLU with an upper limit (infinity: none); not differentiable.

    On a CPU the activation is part of oneDNN's convolution: a pass over the map less. It turns NaN
    to 0, as what torch.compile makes of a frozen network does. On a GPU it may be part of a dilated
    one (`fastseg.ops.dilated_conv2d.conv_branches`).
    """
    if is_one_call(x) and convolution.dilation[0] > 1 and keeps_the_size(convolution):
        return conv_branches(x, [weight], [convolution.dilation[0]], None, bias, limit)
    if not _onednn_clamps(convolution, x):
        return convolve(convolution, x, weight, bias).clamp_(0.0, limit)
    kind, numbers = ("relu", []) if limit == float("inf") else ("hardtanh", [0.0, limit])
    return convolution_and_activation(
        x,
        weight,
        bias,
        list(convolution.padding),
        list(convolution.stride),
        list(convolution.dilation),
        convolution.groups,
        kind,
        numbers,
        "",
    )


def is_one_call(x: torch.Tensor) -> bool:
    """Whether conv_branches may be faster than its parts: on a GPU, where no gradients are recorded
    (torch.compile joins by itself what follows a convolution)."""
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def keeps_the_size(convolution: Any) -> bool:
    """Whether conv_branches supports it: a dense convolution with an odd kernel, stride 1, one
    dilation for both axes, and the padding that keeps the size."""
    if not is_convolution(convolution):
        return False
    rows, columns = convolution.kernel_size
    rate = convolution.dilation[0]
    return bool(
        convolution.padding_mode == "zeros"
        and convolution.groups == 1
        and convolution.stride == (1, 1)
        and convolution.dilation[1] == rate
        and rows % 2 == columns % 2 == 1
        and convolution.padding == (rate * (rows // 2), rate * (columns // 2))
    )


def _onednn_clamps(convolution: nn.Conv2d, x: torch.Tensor) -> bool:
    if torch.compiler.is_compiling():  # which does this by itself
        return False
    return bool(
        (not is_ours(convolution) or _onednn_is_quick(convolution, x))
        and x.device.type == "cpu"
        and x.numel() > 0
        and x.dtype is convolution.weight.dtype
        and _onednn_has(x.dtype)
        and not isinstance(convolution.padding, str)
        and convolution.padding_mode == "zeros"
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and not torch.is_autocast_enabled("cpu")
    )


def _onednn_is_quick(convolution: nn.Conv2d, x: torch.Tensor) -> bool:
    """Whether a depthwise convolution with its activation is quicker there than ours and then a
    pass of its own: 1.0 to 2.0 times (float32, bfloat16 more) at rates 1 and 2, but 0.2 times from
    rate 8 on."""
    return (
        convolution.groups == x.shape[1]
        and max(convolution.dilation) <= 2
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _onednn_has(dtype: torch.dtype) -> bool:
    if dtype is torch.bfloat16:  # on CPUs without, PyTorch has slower convolutions of its own
        return onednn_has_bfloat16()
    return dtype is torch.float32
