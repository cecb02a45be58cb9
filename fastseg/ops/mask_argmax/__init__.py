"""Labels from the masks and class probabilities of queries, without anything at full resolution."""

from __future__ import annotations

import torch

from ..._checks import check_same_device, check_target, size_pair
from ...dtypes import compute_dtype
from ..upsample_bilinear import upsample_bilinear
from .op import check, mask_argmax_op

__all__ = ["mask_argmax", "mask_confusion_matrix", "mask_scores"]

_Size = int | tuple[int, int] | None


def mask_argmax(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    size: _Size = None,
    crop: _Size = None,
    out_size: _Size = None,
) -> torch.Tensor:
    """The class with the largest score, for every pixel, from the masks of queries.

        scores = einsum("nqc,nqhw->nchw", class_probs, sigmoid(F.interpolate(masks, size)))
        labels = F.interpolate(scores[:, :, :crop[0], :crop[1]], out_size).argmax(1)

    with mode="bilinear", align_corners=False. Neither the resized masks nor the scores exist in
    memory, at any size; sums are in float32 (float64 for float64). The first of equal values wins,
    NaN is larger than everything. Not differentiable. The orders of the libraries:

    - detectron2 and mmsegmentation: `size` of the padded image, `crop` to the image, `out_size`
      of the image as it was loaded.
    - transformers' MaskFormer: `out_size` alone; its Mask2Former: size=384 and `out_size`.

    Args:
        masks: logits [N, Q, h, w] of the queries' masks; float32, bfloat16, float16 or float64;
            any strides; N may be 0.
        class_probs: [N, Q, C], the queries' class probabilities without "no object", in the dtype
            of `masks`, or float32 where that has 16 bits.
        size: height and width in pixels that the masks are resized to; one int for both; None:
            their own.
        crop: height and width of the part kept of that, from its upper left corner; None: all.
        out_size: height and width of the labels; None: those of the crop.

    Returns:
        Labels [N, *out_size]: uint8 for up to 256 classes, else int32.

    Raises:
        ValueError: shapes that do not fit; a size below 1; a crop larger than `size`.
        TypeError: dtypes; a size that is not whole.

    Source: Cheng et al., Per-pixel classification is not all you need for semantic segmentation,
    NeurIPS 2021, section 3.4.
    """
    return mask_argmax_op(masks, class_probs, *_sizes(masks, size, crop, out_size))


def mask_scores(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    size: _Size = None,
    crop: _Size = None,
    out_size: _Size = None,
) -> torch.Tensor:
    """The scores that mask_argmax compares, as a map.

    The composition that mask_argmax stands for: for those who want the map, or its gradients.

    Args:
        masks: as in mask_argmax.
        class_probs: as in mask_argmax.
        size: as in mask_argmax.
        crop: as in mask_argmax.
        out_size: as in mask_argmax.

    Returns:
        Scores [N, C, *out_size] in the dtype of `masks`; both tensors are differentiable.

    Raises:
        ValueError: as mask_argmax.
        TypeError: as mask_argmax.
    """
    sizes = _sizes(masks, size, crop, out_size)
    check(masks, class_probs, *sizes)
    size_, crop_, out_size_ = sizes
    x = masks.to(compute_dtype(masks))
    x = upsample_bilinear(x, (size_[0], size_[1])).sigmoid()[..., : crop_[0], : crop_[1]]
    scores = torch.einsum("nqc,nqhw->nchw", class_probs.to(x.dtype), x)
    return upsample_bilinear(scores, (out_size_[0], out_size_[1])).to(masks.dtype)


def mask_confusion_matrix(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    target: torch.Tensor,
    size: _Size = None,
    crop: _Size = None,
) -> torch.Tensor:
    """Counts (truth, prediction) pairs of the labels of mask_argmax at the target's size.

    The same as torch.bincount(target * C + mask_argmax(...)) over the pixels that count.

    Args:
        masks: as in mask_argmax.
        class_probs: as in mask_argmax.
        target: class indices [N, H, W], int64, int32 or uint8; others than 0 to C - 1 do not count.
        size: as in mask_argmax.
        crop: as in mask_argmax.

    Returns:
        int64 [C, C], rows = truth.

    Raises:
        ValueError: as mask_argmax; the target's shape.
        TypeError: as mask_argmax; the target's dtype.
    """
    check_target(target, masks)
    check_same_device("target", target, "masks", masks)
    labels = mask_argmax(masks, class_probs, size, crop, (target.shape[1], target.shape[2]))
    classes = class_probs.shape[2]
    truth = target.long()
    # Pixels that do not count get a cell of their own: no shape depends on the values.
    counted = (truth >= 0) & (truth < classes)
    pair = torch.where(counted, truth * classes + labels, classes * classes)
    ones = torch.ones((), dtype=torch.int64, device=masks.device).expand(pair.numel())
    counts = torch.zeros(classes * classes + 1, dtype=torch.int64, device=masks.device)
    return counts.scatter_add(0, pair.flatten(), ones)[:-1].view(classes, classes)


def _sizes(
    masks: torch.Tensor, size: _Size, crop: _Size, out_size: _Size
) -> tuple[list[int], list[int], list[int]]:
    own = list(masks.shape[2:])
    first = own if size is None else size_pair(size)
    second = first if crop is None else size_pair(crop)
    return first, second, second if out_size is None else size_pair(out_size)
