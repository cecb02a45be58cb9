"""upsample_cross_entropy through CUDA kernels: nothing waits for the device."""

from __future__ import annotations

import torch

from ... import _native
from ...dtypes import compute_dtype
from ...layout import map_format
from ...target_checks import TargetCheck
from .native_shape import loss_shape


def forward(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    align_corners: bool,
    with_sums: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Loss in the compute dtype, sums of the softmax (or None), sum of the target weights."""
    dtype, device = compute_dtype(logits), logits.device
    sums = torch.empty(target.shape, dtype=dtype, device=device) if with_sums else None
    loss = torch.empty((), dtype=dtype, device=device)
    pixel_loss = None
    if reduction == "none":
        pixel_loss = torch.empty(target.shape, dtype=dtype, device=device)
    total_weight = torch.empty((), dtype=torch.float64, device=device)
    core = _native.core("upsample_cross_entropy")
    shape = loss_shape(logits, target, ignore_index, label_smoothing, align_corners)
    partials = torch.empty(core.cuda_partial_sums(shape), dtype=torch.float64, device=device)
    target, weight = target.contiguous(), _compute_type(weight, logits)
    with TargetCheck(target, logits.shape[1], ignore_index) as check:
        _native.launch(
            core,
            "forward",
            logits,
            _native.dtype_code(logits),
            _native.LABEL_CODES[target.dtype],
            shape,
            logits=logits.data_ptr(),
            target=target.data_ptr(),
            class_weight=_native.address(weight),
            mean=reduction == "mean",
            partials=partials.data_ptr(),
            sums=_native.address(sums),
            pixel_loss=_native.address(pixel_loss),
            loss=loss.data_ptr(),
            total_weight=total_weight.data_ptr(),
            bad=check.pointer,
        )
    return loss if pixel_loss is None else pixel_loss, sums, total_weight


def backward(
    grad_loss: torch.Tensor,
    total_weight: torch.Tensor,
    sums: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    align_corners: bool,
) -> torch.Tensor:
    """Gradient [N, C, h, w]."""
    gradient = torch.empty_like(logits, memory_format=map_format(logits))
    if gradient.numel() == 0:
        return gradient
    core = _native.core("upsample_cross_entropy")
    grad_loss = grad_loss.to(compute_dtype(logits)).contiguous()
    target, weight = target.contiguous(), _compute_type(weight, logits)
    _native.launch(
        core,
        "backward",
        logits,
        _native.dtype_code(logits),
        _native.LABEL_CODES[target.dtype],
        loss_shape(logits, target, ignore_index, label_smoothing, align_corners),
        logits=logits.data_ptr(),
        target=target.data_ptr(),
        class_weight=_native.address(weight),
        sums=sums.data_ptr(),
        grad_loss=grad_loss.data_ptr(),
        per_pixel=reduction == "none",
        total_weight=_native.address(total_weight if reduction == "mean" else None),
        grad_logits=gradient.data_ptr(),
        grad_channels_last=map_format(logits) is torch.channels_last,
    )
    return gradient


def _compute_type(weight: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    return None if weight is None else weight.to(compute_dtype(logits)).contiguous()
