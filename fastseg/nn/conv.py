"""Convolutions as modules, alone and with a norm and an activation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.dilated_conv2d import dilated_conv2d


class DilatedConv2d(nn.Conv2d):
    """nn.Conv2d whose forward is fastseg.dilated_conv2d: same arguments, parameters and values.

    Raises:
        ValueError: padding_mode other than "zeros".
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> map [N, out_channels, H', W'] in x's memory format."""
        return convolve(self, x, self.weight, self.bias)


def convolve(
    convolution: nn.Conv2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """The convolution of a module, with another weight and bias."""
    if convolution.padding_mode != "zeros":
        raise ValueError(f"padding_mode is {convolution.padding_mode!r}, allowed is 'zeros'")
    function: Any = dilated_conv2d if isinstance(convolution, DilatedConv2d) else F.conv2d
    return function(
        x,
        weight,
        bias,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )


def convolve_norm(convolution: nn.Conv2d, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """norm(convolution(x)), as one convolution where nothing is trained.

    Batch norm in eval mode is a factor and a summand per channel. Where no gradients are recorded
    they are folded into the weight and the bias, which saves a pass over the map.
    """
    if (
        torch.is_grad_enabled()
        or not isinstance(norm, nn.BatchNorm2d)
        or norm.training
        or norm.running_mean is None
        or norm.running_var is None
        or norm.weight is None
    ):
        return norm(convolution(x))
    weight = convolution.weight
    exact = torch.promote_types(weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * torch.rsqrt(norm.running_var.to(exact) + norm.eps)
    mean = norm.running_mean.to(exact)
    if convolution.bias is not None:
        mean = mean - convolution.bias.to(exact)
    bias = norm.bias.to(exact) - mean * scale
    weight = (weight.to(exact) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return convolve(convolution, x, weight, bias.to(weight.dtype))


class ConvNormAct(nn.Sequential):
    """Convolution (or SeparableConv2d), norm, activation and what may follow, in this order.

    Map [N, in_channels, H, W] -> map [N, out_channels, H', W'].
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same as nn.Sequential, with the norm folded as in `convolve_norm`."""
        layers: list[Any] = list(self)
        convolution, norm, *others = layers
        if isinstance(convolution, nn.Sequential):
            depthwise, convolution = convolution
            x = depthwise(x)
        y = convolve_norm(convolution, norm, x)
        for module in others:
            y = module(y)
        return y
