"""Branches of convolution, batch norm and ReLU on one map, concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..ops.dilated_conv2d import conv_branches
from .chain import can_be_folded, flat_layers, has_no_hooks, scale_and_shift
from .conv import DilatedConv2d


def run_branches(x: torch.Tensor, branches: Sequence[nn.Module]) -> torch.Tensor:
    """torch.cat([branch(x) for branch in branches], dim=1).

    On a GPU, where no gradients are recorded, branches of a dense convolution that keeps the size,
    batch norm in eval mode (or folded already: `fastseg.fuse`) and ReLU are one call, which may be
    one launch that writes the concatenation (`fastseg.ops.dilated_conv2d.conv_branches`).
    """
    joint = _joint(branches) if _wants_one_call(x) else None
    if joint is None:
        return torch.cat([branch(x) for branch in branches], dim=1)
    convolutions, scale, shift = joint
    weights = [c.weight for c in convolutions]
    return conv_branches(x, weights, [c.dilation[0] for c in convolutions], scale, shift)


def _wants_one_call(x: torch.Tensor) -> bool:
    return x.is_cuda and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _joint(
    branches: Sequence[nn.Module],
) -> tuple[list[nn.Conv2d], torch.Tensor | None, torch.Tensor] | None:
    """Their convolutions, what those are scaled by and what is added; None for other branches."""
    rows = [list(flat_layers([branch])) for branch in branches]
    layers = [layer for row in rows for layer in row]
    if not has_no_hooks(*branches, *layers) or any(type(row[-1]) is not nn.ReLU for row in rows):
        return None
    convolutions = [row[0] for row in rows]
    if not all(map(_keeps_the_size, convolutions)):
        return None
    if len({c.out_channels for c in convolutions}) != 1:
        return None
    if all(len(row) == 3 and can_be_folded(*row[:2]) for row in rows):
        pairs = [scale_and_shift(*row[:2]) for row in rows]
        return convolutions, torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
    if all(len(row) == 2 and row[0].bias is not None for row in rows):
        return convolutions, None, torch.cat([c.bias for c in convolutions])
    return None


def _keeps_the_size(convolution: Any) -> bool:
    """A dense convolution with an odd kernel, stride 1, one dilation, and the padding for it."""
    if type(convolution) not in (nn.Conv2d, DilatedConv2d) or convolution.padding_mode != "zeros":
        return False
    rows, columns = convolution.kernel_size
    rate = convolution.dilation[0]
    return (
        convolution.groups == 1
        and convolution.stride == (1, 1)
        and convolution.dilation[1] == rate
        and rows % 2 == columns % 2 == 1
        and convolution.padding == (rate * (rows // 2), rate * (columns // 2))
    )
