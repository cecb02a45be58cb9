"""Cross-entropy of the hard pixels: online hard example mining."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ...ops.upsample_cross_entropy import upsample_cross_entropy


class OhemCrossEntropy(nn.Module):
    """Cross-entropy over the pixels with the least probable targets.

    It keeps the pixels whose target has a probability below `threshold`, and at least `min_kept`:
    if there are fewer, those with the lowest probabilities. The loss is the mean over the
    kept pixels (over the weights of their classes). Which pixels are kept has no gradient.

    Args:
        threshold: probability in (0, 1].
        min_kept: pixels of the batch that are kept at least.
        weight: of each class [C], or None. Has no part in the choice of the pixels.
        ignore_index: target value of pixels that do not count.
        align_corners: as in F.interpolate.

    Source: Shrivastava, Gupta, Girshick, "Training region-based object detectors with online hard
    example mining" (2016), as segmentation uses it.
    """

    weight: torch.Tensor | None

    def __init__(
        self,
        threshold: float = 0.7,
        min_kept: int = 100_000,
        weight: torch.Tensor | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold is {threshold}, expected a number in (0, 1]")
        if min_kept < 1:
            raise ValueError(f"min_kept is {min_kept}, expected at least 1")
        self.register_buffer("weight", weight)
        self.threshold, self.min_kept = threshold, min_kept
        self.ignore_index, self.align_corners = ignore_index, align_corners

    def forward(self, logits: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
        """Low-resolution logits [N, C, h, w] and classes [N, H, W] -> a scalar."""
        align_corners = options.pop("align_corners", self.align_corners)
        if options:
            raise TypeError(f"{next(iter(options))} is not an argument of OhemCrossEntropy")
        loss = upsample_cross_entropy(
            logits,
            target,
            ignore_index=self.ignore_index,
            reduction="none",
            align_corners=align_corners,
        )
        kept = self._hard(loss.detach(), target)
        loss = loss.where(kept, 0.0)
        if self.weight is None:
            return loss.sum() / kept.sum()
        weight = self.weight.to(loss.dtype)[target.long().where(kept, 0)].where(kept, 0.0)
        return (loss * weight).sum() / weight.sum()

    def _hard(self, loss: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Which pixels are kept. A low probability is a high loss; an ignored pixel's loss is 0."""
        hard = loss > -math.log(self.threshold)
        wanted = min(self.min_kept, loss.numel())
        if int(torch.count_nonzero(hard)) >= wanted:
            return hard
        counted = target != self.ignore_index
        valid = loss[counted]
        count = min(wanted, valid.numel())
        if count == 0 or int((hard & counted).sum()) >= count:
            return hard & counted
        least = valid.kthvalue(valid.numel() - count + 1).values
        return (loss >= least) & counted
