"""The definition of upsample_cross_entropy in plain PyTorch, with its gradient written out."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import bad_target, first_bad_target
from ...dtypes import widened
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
    wide_loss: bool,
) -> tuple[torch.Tensor, ...]:
    """Loss, its gradient (or empty), sums (or empty), sum of the target weights."""
    classes = logits.shape[1]
    bad = first_bad_target(target, classes, ignore_index)
    if bad >= 0:
        raise bad_target(target, bad, classes, ignore_index)
    wide = widened(logits)
    upsampled = _upsample(wide, target, align_corners)
    log_p = upsampled.log_softmax(1)
    own, every = _shares(log_p, target, weight, ignore_index, label_smoothing)
    sums = wide.new_empty((0,))
    if with_sums:
        largest = _upsample(wide.amax(1, keepdim=True), target, align_corners)
        sums = softmax_sums(upsampled, largest).masked_fill(target == ignore_index, 1.0)
    pixel_loss = _pixel_losses(log_p, own + every)
    total_weight = own.double().sum() / (1.0 - label_smoothing) if label_smoothing < 1.0 else None
    if total_weight is None:
        total_weight = _shares(log_p, target, weight, ignore_index, 0.0)[0].double().sum()
    gradient = wide.new_empty((0,))
    if with_gradient:
        one = torch.ones((), dtype=torch.float64, device=wide.device)
        scale = scale_of_sum(one, total_weight, reduction).to(wide.dtype)
        gradient = _gradient(log_p, own + every, scale, wide, align_corners)
        gradient = gradient.contiguous(memory_format=map_format(logits))
    loss_dtype = wide.dtype if wide_loss else logits.dtype
    if reduction == "none":
        return pixel_loss.to(loss_dtype), gradient, sums, total_weight
    loss = pixel_loss.double().sum()
    if reduction == "mean":
        loss = loss / total_weight
    return loss.to(loss_dtype), gradient, sums, total_weight


def losses_of_pixels(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    align_corners: bool,
) -> torch.Tensor:
    """What reduction="none" returns [N, H, W], in the compute dtype, with PyTorch's derivatives."""
    log_p = _upsample(widened(logits), target, align_corners).log_softmax(1)
    own, every = _shares(log_p, target, weight, ignore_index, label_smoothing)
    return _pixel_losses(log_p, own + every)


def backward(
    grad_loss: torch.Tensor,
    total_weight: torch.Tensor,
    sums: torch.Tensor | None,
    logits: torch.Tensor,
    *rest: Any,
) -> torch.Tensor:
    """Gradient [N, C, h, w]."""
    gradient = gradient_of_logits(grad_loss, total_weight, sums, logits, *rest)
    return gradient.contiguous(memory_format=map_format(logits))


def gradient_of_logits(
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
    """backward() in any memory format, with PyTorch's derivatives."""
    wide = widened(logits)
    log_p = _upsample(wide, target, align_corners).log_softmax(1)
    own, every = _shares(log_p, target, weight, ignore_index, label_smoothing)
    if reduction == "none":
        scale = grad_loss.to(wide.dtype)[:, None]
    else:
        scale = scale_of_sum(grad_loss, total_weight, reduction).to(wide.dtype)
    return _gradient(log_p, own + every, scale, wide, align_corners).to(logits.dtype)


def _upsample(wide: torch.Tensor, target: torch.Tensor, align_corners: bool) -> torch.Tensor:
    return bilinear.forward(wide, list(target.shape[1:]), align_corners, None, None)


def _pixel_losses(log_p: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """-sum(shares * log p): what has no share adds nothing, even where log p is infinite or NaN."""
    return -(shares * log_p).where(shares != 0, 0.0).sum(1)


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
    numbers = torch.arange(classes, device=target.device).view(-1, 1, 1)
    one_hot = (target.long()[:, None] == numbers).to(log_p.dtype)
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
