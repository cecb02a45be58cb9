"""Sums over full-resolution pixels that region losses are functions of, from low resolution."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..._checks import size_pair
from .op import upsample_class_sums_op
from .sums import NAMES

__all__ = ["upsample_class_sums"]


def upsample_class_sums(
    logits: torch.Tensor,
    target: torch.Tensor,
    sums: Sequence[str] = ("probability", "overlap", "target"),
    activation: str = "softmax",
    size: tuple[int, int] | None = None,
    ignore_index: int = -100,
    pixel_weight: torch.Tensor | None = None,
    gamma: float = 2.0,
    reduced_threshold: float = 0.0,
    align_corners: bool = False,
) -> torch.Tensor:
    """Sums over the pixels of upsampled probabilities and targets, per image and class.

    The same function as

        z = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=align_corners)
        p = z.softmax(1)                                        # or z.sigmoid()
        torch.stack([term(p, y).sum((2, 3)) for term in sums], 1).double()

    without the upsampled logits: Dice, Jaccard, Tversky, cross-entropy and focal losses are a few
    operations on the result, and one backward pass serves all that were made of it. fastseg.nn has
    these losses. Deterministic; sums are float64.

    With the target y (of labels: 1 at the target's class, else 0), and the weight
    w(t) = ((1 - t) / r)^gamma, 1 where t < r = reduced_threshold (r = 0: w(t) = (1 - t)^gamma):

        "probability"            p
        "overlap"                p y
        "target"                 y
        "count"                  1
        "square"                 p p
        "loss"                   -y log p
        "negative_loss"          -(1 - y) log(1 - p)            sigmoid only
        "every_loss"             -log p
        "negative_every_loss"    -log(1 - p)                    sigmoid only
        "focal"                  -y w(p) log p                  softmax: labels only
        "negative_focal"         -(1 - y) w(1 - p) log(1 - p)   sigmoid only
        "focal_weight"           y w(p)                         softmax: labels only
        "negative_focal_weight"  (1 - y) w(1 - p)               sigmoid only
        "minimum"                min(p, y)                      sigmoid only
        "negative_entropy"       y log y                        softmax only, not of labels

    Args:
        logits: map [N, C, h, w]; float32, bfloat16, float16 or float64; any strides.
        target: one of
            labels [N, H, W], int64, int32, uint8 or bool, each in 0..C-1 or ignore_index (sigmoid
            of one class: 0 or 1);
            shares [N, C, H, W], floating point, integers or bool, in [0, 1]: of the classes with
            softmax; each by itself with sigmoid, where ignore_index does not count (integers: each
            0, 1 or ignore_index);
            with `size`, logits [N, C, h', w'] of a teacher, whose softmax is y.
        sums: names from the table above.
        activation: "softmax" over the classes or "sigmoid" of each.
        size: (H, W) of a teacher's target; else None.
        ignore_index: target value of pixels that do not count.
        pixel_weight: weight of each pixel [N, H, W], which multiplies every term; floating point;
            not differentiable.
        gamma, reduced_threshold: of the focal sums; gamma >= 0, reduced_threshold in [0, 1].
        align_corners: as in upsample_bilinear; the teacher's as well.

    Returns:
        Sums [N, len(sums), C] in the order of `sums`, float64. Differentiable in logits, any number
        of times (second derivatives and forward mode in plain PyTorch, at full resolution).

    Raises:
        ValueError: wrong shapes, devices, names or options; a label that is neither a class nor
            ignore_index, or a mask that is neither 0, 1 nor ignore_index (on the CPU; on a GPU
            inside check_targets(), else the sums are NaN).
        TypeError: dtype of logits, target or pixel_weight.
        NotImplementedError: target or pixel_weight requires a gradient.
    """
    unknown = [name for name in sums if name not in NAMES]
    if unknown:
        raise ValueError(f"sums has {unknown[0]!r}, allowed are {', '.join(map(repr, NAMES))}")
    if target.dtype is torch.bool:
        target = target.view(torch.uint8)
    return upsample_class_sums_op(
        logits,
        target,
        pixel_weight,
        [NAMES.index(name) for name in sums],
        activation,
        None if size is None else size_pair(size),
        ignore_index,
        float(gamma),
        float(reduced_threshold),
        align_corners,
    )
