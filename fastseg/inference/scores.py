"""Per-pixel scores of one view, which sliding windows and augmentation average."""

from __future__ import annotations

import torch

from ..models.base import SegmentationModel
from ..ops.upsample_bilinear import upsample_bilinear


def pixel_logits(model: SegmentationModel, x: torch.Tensor) -> torch.Tensor:
    """Full-resolution logits [N, classes, H, W] of x [N, C, H, W], before any activation."""
    height, width = x.shape[2:]
    padded = model.output_size(*model.padded_size(height, width))
    logits = upsample_bilinear(model.coarse_logits(x), padded, align_corners=model.align_corners)
    if model.output_size(height, width) != (height, width):
        raise ValueError(
            f"model gives {model.output_size(height, width)} logits for {(height, width)} pixels; "
            "averaging over windows and views needs one per pixel"
        )
    return logits[:, :, :height, :width]


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Softmax over the classes; sigmoid where there is only one."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def labels_of(
    scores: torch.Tensor, size: tuple[int, int], align_corners: bool, threshold: float
) -> torch.Tensor:
    """Labels [N, H, W] of scores resized to `size`; a single class is 1 above `threshold`."""
    from ..ops.upsample_argmax import upsample_argmax

    if scores.shape[1] == 1:
        scores = torch.cat([torch.full_like(scores, threshold), scores], dim=1)
    return upsample_argmax(scores, size, align_corners=align_corners)
