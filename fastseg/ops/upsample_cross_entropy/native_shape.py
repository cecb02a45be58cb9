"""The native description of a loss, the same for the CPU and CUDA kernels."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native


def loss_shape(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int,
    label_smoothing: float,
    align_corners: bool,
) -> Any:
    """Strided logits [N, C, h, w], a target [N, H, W] and the options of the loss."""
    return _native.core("upsample_cross_entropy").Shape(
        **_native.upsampled_logits(logits, target.shape[1:], align_corners),
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )
