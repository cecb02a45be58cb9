"""Branches of convolution, batch norm and ReLU on one map, concatenated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..ops.dilated_conv2d import conv_branches
from .altered import all_are_watched, is_a, why_called
from .chain import flat, opens
from .conv import is_one_call, keeps_the_size
from .fold import can_be_folded, scale_and_shift


def run_branches(x: torch.Tensor, branches: Sequence[nn.Module]) -> torch.Tensor:
    """torch.cat([branch(x) for branch in branches], dim=1).

    On a GPU, where no gradients are recorded, branches of a dense convolution that keeps the size,
    batch norm in eval mode (or folded already: `fastseg.fuse`) and ReLU are one call, which may be
    one launch that writes the concatenation (`fastseg.ops.dilated_conv2d.conv_branches`).
    """
    joint = _joint(branches) if is_one_call(x) and not all_are_watched() else None
    if joint is None:
        return torch.cat([branch(x) for branch in branches], dim=1)
    convolutions, scale, shift = joint
    weights = [c.weight for c in convolutions]
    return conv_branches(x, weights, [c.dilation[0] for c in convolutions], scale, shift)


def _joint(
    branches: Sequence[nn.Module],
) -> tuple[list[nn.Conv2d], torch.Tensor | None, torch.Tensor] | None:
    """Their convolutions, what those are scaled by and what is added; None for other branches."""
    if not all(map(opens, branches)):
        return None
    rows = [list(flat([branch])) for branch in branches]
    if not all(row and is_a(row[-1], nn.ReLU) for row in rows):
        return None
    convolutions = [row[0] for row in rows]
    if not all(keeps_the_size(c) and why_called(c) is None for c in convolutions):
        return None
    if len({c.out_channels for c in convolutions}) != 1:
        return None
    if all(len(row) == 3 and can_be_folded(*row[:2]) for row in rows):
        pairs = [scale_and_shift(*row[:2]) for row in rows]
        return convolutions, torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])
    if all(len(row) == 2 and row[0].bias is not None for row in rows):
        return convolutions, None, torch.cat([c.bias for c in convolutions])
    return None
