"""Label map of low-resolution logits, without the full-resolution logits."""

from __future__ import annotations

import torch

from ..._checks import size_pair
from .op import upsample_argmax_op

__all__ = ["upsample_argmax"]


def upsample_argmax(
    logits: torch.Tensor, size: int | tuple[int, int], align_corners: bool = False
) -> torch.Tensor:
    """The class with the largest bilinearly upsampled logit, for every pixel.

    The same function as F.interpolate(logits, size, mode="bilinear", align_corners=...).argmax(1),
    computed in float32 (float64 for float64): the first of equal values wins, NaN is larger than
    everything. The upsampled logits never exist in memory. Not differentiable.

    Args:
        logits: map [N, C, H, W]; float32, bfloat16, float16 or float64; any strides.
        size: height and width of the labels in pixels, each at least 1; one int for both.
        align_corners: as in upsample_bilinear.

    Returns:
        Labels [N, *size]: uint8 for up to 256 classes, else int32.

    Raises:
        ValueError: logits is not [N, C, H, W] with C, H, W >= 1; a size below 1.
        TypeError: dtype of logits; a size that is not whole.
    """
    return upsample_argmax_op(logits, size_pair(size), align_corners)
