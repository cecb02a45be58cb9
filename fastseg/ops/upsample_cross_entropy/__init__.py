"""Cross-entropy of low-resolution logits against a full-resolution target."""

from __future__ import annotations

import torch

from ... import _native
from ..._private_torch import is_transformed
from .op import upsample_cross_entropy_op

__all__ = ["upsample_cross_entropy"]


def upsample_cross_entropy(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    align_corners: bool = False,
) -> torch.Tensor:
    """Cross-entropy loss of bilinearly upsampled logits, without the upsampled logits.

    The same function as

        F.cross_entropy(
            F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=align_corners),
            target, weight, ignore_index=..., reduction=..., label_smoothing=...)

    forward and backward, in float32 (float64 for float64). Extra memory: the gradient at low
    resolution, instead of about four tensors at full resolution. Deterministic. The gradient has
    the memory format of logits.

    Args:
        logits: map [N, C, h, w]; float32, bfloat16, float16 or float64; any strides.
        target: classes [N, H, W], int64, int32 or uint8, each in 0..C-1 or ignore_index. H and W
            may be smaller than h and w. Class probabilities are not supported.
        weight: weight of each class [C], floating point, at least 0; has no derivative.
        ignore_index: target value of pixels that add nothing to loss and gradient.
        reduction: "mean" (over the weights of the targets that count), "sum" or "none".
        label_smoothing: in [0, 1]: share of each target spread evenly over all classes.
        align_corners: as in upsample_bilinear.

    Returns:
        Loss, a scalar, or [N, H, W] for reduction="none"; dtype of logits, but float32 for float16
        and bfloat16 logits under autocast, as F.cross_entropy's. The mean of no pixels is NaN, with
        a gradient of zero, as in PyTorch.

    Derivatives: in logits, of any order, in reverse and forward mode. The second derivative, and
    forward mode with reduction="none", run in plain PyTorch at full resolution.

    Raises:
        ValueError: wrong shapes, devices or options; a target that is neither a class nor
            ignore_index (on the CPU; on a GPU inside check_targets(), else the loss is NaN).
        TypeError: dtype of logits, target or weight.
        NotImplementedError: weight requires a gradient.
    """
    # On a CPU the gradient costs little more when it is computed together with the loss. A GPU
    # keeps one number per pixel instead, and writes the gradient once, scaled and in its own type.
    differentiated = torch.is_grad_enabled() and logits.requires_grad
    on_cuda = _native.on_cuda(logits)
    with_gradient = differentiated and not on_cuda and reduction != "none" and not is_transformed()
    return upsample_cross_entropy_op(
        logits,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
        align_corners,
        with_gradient,
        differentiated and on_cuda,
        False,  # autocast sets it
    )[0]
