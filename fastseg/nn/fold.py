"""Folds batch norms into the convolutions before them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .altered import original_class, why_called
from .conv import is_convolution


def is_whole_batch_norm(norm: Any) -> bool:
    """Whether this is an affine, non-synchronised nn.BatchNorm2d with running statistics."""
    return original_class(norm) is nn.BatchNorm2d and norm.affine and norm.running_mean is not None


def can_be_folded(convolution: Any, norm: Any) -> bool:
    """Whether this batch norm can be folded into this convolution."""
    return (
        is_convolution(convolution)
        and is_whole_batch_norm(norm)
        and convolution.padding_mode == "zeros"
        and not norm.training
        and why_called(convolution) is None
        and why_called(norm) is None
    )


def folding_pays(convolution: Any, x: torch.Tensor) -> bool:
    """Whether folding at this call reads less of the weights than it saves of the map.

    Args:
        convolution: that a batch norm can be folded into.
        x: map [N, C, H, W] that it reads.
    """
    if x.dim() != 4:
        return False
    rows, columns = convolution.stride
    pixels = (x.shape[2] // rows) * (x.shape[3] // columns)
    return x.shape[0] * convolution.out_channels * pixels >= convolution.weight.numel()


def folded_parameters(convolution: nn.Conv2d, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution equal to norm(convolution(x)), with norm in eval mode.

    They are computed in float32 at least, and rounded once.
    """
    weight = convolution.weight
    scale, shift = scale_and_shift(convolution, norm)
    folded = (weight.to(scale.dtype) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return folded, shift.to(weight.dtype)


def scale_and_shift(convolution: nn.Conv2d, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and summand [C] that norm, in eval mode, makes of the convolution's sum of products.

    They are in float32 at least; the summand holds the convolution's bias.
    """
    exact = torch.promote_types(convolution.weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * torch.rsqrt(norm.running_var.to(exact) + norm.eps)
    mean = norm.running_mean.to(exact)
    if convolution.bias is not None:
        mean = mean - convolution.bias.to(exact)
    return scale, norm.bias.to(exact) - mean * scale
