"""The definition of upsample_cross_entropy in plain PyTorch, with its gradient written out."""

from __future__ import annotations

import torch

from ..._checks import bad_target, first_bad_target
from ...dtypes import compute_dtype
from ...layout import map_format
from ..upsample_bilinear import reference as bilinear
from .scale import scale_of_sum, softmax_sums


def forward(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    align_corners: bool,
    with_gradient: bool,
    with_sums: bool,
) -> tuple[torch.Tensor, ...]:
    """Loss, its gradient (or empty), sums (or empty), sum of the target weights."""
    classes = logits.shape[1]
    bad = first_bad_target(target, classes, ignore_index)
    if bad >= 0:
        raise bad_target(target, bad, classes, ignore_index)
    wide = logits.to(compute_dtype(logits))
    upsampled = _upsample(wide, target, align_corners)
    log_p = upsampled.log_softmax(1)
    own, every = _shares(log_p, target, weight, ignore_index, label_smoothing)
    sums = wide.new_empty((0,))
    if with_sums:
        largest = _upsample(wide.amax(1, keepdim=True), target, align_corners)
        sums = softmax_sums(upsampled, largest).masked_fill(target == ignore_index, 1.0)
    # What has no share adds nothing, even where log p is infinite or NaN.
    shares = own + every
    pixel_loss = -(shares * log_p).where(shares != 0, 0.0).sum(1)
    total_weight = own.double().sum() / (1.0 - label_smoothing) if label_smoothing < 1.0 else None
    if total_weight is None:
        total_weight = _shares(log_p, target, weight, ignore_index, 0.0)[0].double().sum()
    gradient = wide.new_empty((0,))
    if with_gradient:
        one = torch.ones((), dtype=torch.float64, device=wide.device)
        scale = scale_of_sum(one, total_weight, reduction).to(wide.dtype)
        gradient = _gradient(log_p, shares, scale, wide, align_corners)
        gradient = gradient.contiguous(memory_format=map_format(logits))
    if reduction == "none":
        return pixel_loss.to(logits.dtype), gradient, sums, total_weight
    loss = pixel_loss.double().sum()
    if reduction == "mean":
        loss = loss / total_weight
    return loss.to(logits.dtype), gradient, sums, total_weight


def backward(
    grad_loss: torch.Tensor,
    total_weight: torch.Tensor,
    sums: torch.Tensor | None,
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    align_corners: bool,
) -> torch.Tensor:
    """Gradient [N, C, h, w]."""
    wide = logits.to(compute_dtype(logits))
    log_p = _upsample(wide, target, align_corners).log_softmax(1)
    own, every = _shares(log_p, target, weight, ignore_index, label_smoothing)
    if reduction == "none":
        scale = grad_loss.to(wide.dtype)[:, None]
    else:
        scale = scale_of_sum(grad_loss, total_weight, reduction).to(wide.dtype)
    gradient = _gradient(log_p, own + every, scale, wide, align_corners)
    return gradient.to(logits.dtype).contiguous(memory_format=map_format(logits))


def _upsample(wide: torch.Tensor, target: torch.Tensor, align_corners: bool) -> torch.Tensor:
    return bilinear.forward(wide, list(target.shape[1:]), align_corners, None, None)


def _shares(
    log_p: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights of -log p [N, C, H, W] in the loss: of the target's class, and of every class."""
    classes = log_p.shape[1]
    counted = (target != ignore_index)[:, None]
    class_weight = log_p.new_ones(classes) if weight is None else weight.to(log_p.dtype)
    class_weight = class_weight.view(1, -1, 1, 1)
    index = target.long()[:, None].where(counted, 0)
    one_hot = torch.zeros_like(log_p).scatter_(1, index, 1.0)
    own = (1.0 - label_smoothing) * one_hot * class_weight
    every = (label_smoothing / classes) * class_weight.expand_as(log_p)
    return own * counted, every * counted


def _gradient(
    log_p: torch.Tensor,
    shares: torch.Tensor,
    scale: torch.Tensor,
    wide: torch.Tensor,
    align_corners: bool,
) -> torch.Tensor:
    """d/dz of -sum(shares * log p) is p * sum(shares) - shares; then the adjoint of upsampling."""
    full = (log_p.exp() * shares.sum(1, keepdim=True) - shares) * scale
    return bilinear.backward(full, list(wide.shape[2:]), align_corners, None, None)
