"""Confusion matrix of low-resolution logits against a full-resolution target."""

from __future__ import annotations

import torch

from .op import upsample_confusion_matrix_op

__all__ = ["upsample_confusion_matrix"]


def upsample_confusion_matrix(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore_index: int = -100,
    align_corners: bool = False,
) -> torch.Tensor:
    """Counts pixels by true and predicted class, from logits at low resolution.

    The same as upsampling the logits to the target's size (bilinear), taking the argmax over the
    classes as upsample_argmax does, and counting pairs: result[t, p] is the number of pixels of
    class t that were labelled p. Neither the upsampled logits nor the labels exist in memory. Sum
    the results of batches (and processes), then compute IoU from the sum. Not differentiable.

    Args:
        logits: map [N, C, h, w]; float32, bfloat16, float16 or float64; any strides.
        target: classes [N, H, W], int64, int32 or uint8, each in 0..C-1 or ignore_index.
        ignore_index: target value that is not counted.
        align_corners: as in upsample_bilinear.

    Returns:
        Counts [C, C], int64; rows are the truth.

    Raises:
        ValueError: wrong shapes or devices; a target that is neither a class nor ignore_index.
        TypeError: dtype of logits or target.
    """
    return upsample_confusion_matrix_op(logits, target, ignore_index, align_corners)
