"""Losses of low-resolution logits."""

from __future__ import annotations

import torch
from torch import nn

from ..ops.upsample_cross_entropy import upsample_cross_entropy


class UpsampleCrossEntropy(nn.Module):
    """Cross-entropy of bilinearly upsampled logits: fastseg.upsample_cross_entropy as a module.

    The same as nn.CrossEntropyLoss of F.interpolate(logits, target.shape[1:], mode="bilinear").

    Args:
        weight: of each class [C], or None; a buffer that moves with the module.
        ignore_index, reduction, label_smoothing: as in nn.CrossEntropyLoss.
        align_corners: as in F.interpolate.
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        weight: torch.Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.label_smoothing = label_smoothing
        self.align_corners = align_corners

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Logits [N, C, h, w] and classes [N, H, W] -> scalar, or [N, H, W] unreduced."""
        return upsample_cross_entropy(
            logits,
            target,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
            self.align_corners,
        )
