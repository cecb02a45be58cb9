"""upsample_cross_entropy through the native core."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ..._checks import bad_target
from ...layout import map_format
from .scale import compute_dtype, scale_of_sum


def unsupported_reason(*args: Any) -> str | None:
    """Why this backend cannot run on logits, or None."""
    logits = args[0] if args[0].dim() == 4 else args[2]  # forward or backward
    return _native.unsupported_reason(logits, cuda=False)


def forward(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    align_corners: bool,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, its gradient (or empty), sum of the target weights."""
    dtype = compute_dtype(logits)
    pixel_loss = torch.empty(target.shape, dtype=dtype) if reduction == "none" else None
    gradient = _empty_gradient(logits) if with_gradient else logits.new_empty((0,), dtype=dtype)
    loss_sum, weight_sum = _run(
        logits,
        target,
        weight,
        ignore_index,
        label_smoothing,
        align_corners,
        pixel_loss=pixel_loss,
        gradient=gradient if with_gradient else None,
    )
    total_weight = torch.tensor(weight_sum, dtype=torch.float64)
    if pixel_loss is not None:
        return pixel_loss.to(logits.dtype), gradient, total_weight
    loss = torch.tensor(loss_sum, dtype=torch.float64)
    if reduction == "mean":
        loss = loss / total_weight
        if with_gradient and weight_sum != 0.0:
            gradient.mul_(1.0 / weight_sum)
    return loss.to(logits.dtype), gradient, total_weight


def backward(
    grad_loss: torch.Tensor,
    total_weight: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    align_corners: bool,
) -> torch.Tensor:
    """Gradient [N, C, h, w] in the compute type."""
    gradient = _empty_gradient(logits)
    scale = grad_loss.to(gradient.dtype).contiguous() if reduction == "none" else None
    _run(
        logits,
        target,
        weight,
        ignore_index,
        label_smoothing,
        align_corners,
        pixel_scale=scale,
        gradient=gradient,
    )
    if reduction != "none":
        gradient.mul_(scale_of_sum(grad_loss, total_weight, reduction).to(gradient.dtype))
    return gradient


def _empty_gradient(logits: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(logits, dtype=compute_dtype(logits), memory_format=map_format(logits))


def _run(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    align_corners: bool,
    *,
    pixel_scale: torch.Tensor | None = None,
    pixel_loss: torch.Tensor | None = None,
    gradient: torch.Tensor | None = None,
) -> tuple[float, float]:
    """Sum of the pixel losses and of the target weights; fills the tensors that are given."""
    if target.numel() == 0:
        return 0.0, 0.0
    assert _native._C is not None
    core = _native._C.upsample_cross_entropy
    target = target.contiguous()
    if weight is not None:
        weight = weight.to(compute_dtype(logits)).contiguous()
    strides = logits.stride()
    shape = core.Shape(
        batch=logits.shape[0],
        classes=logits.shape[1],
        in_h=logits.shape[2],
        in_w=logits.shape[3],
        out_h=target.shape[1],
        out_w=target.shape[2],
        align_corners=align_corners,
        stride_n=strides[0],
        stride_c=strides[1],
        stride_h=strides[2],
        stride_w=strides[3],
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
    )

    def pointer(x: torch.Tensor | None) -> int:
        return 0 if x is None else x.data_ptr()

    loss_sum, weight_sum, bad = core.cpu_run(
        _native.dtype_code(logits),
        _native.LABEL_CODES[target.dtype],
        shape,
        torch.get_num_threads(),
        logits=logits.data_ptr(),
        target=target.data_ptr(),
        class_weight=pointer(weight),
        pixel_scale=pointer(pixel_scale),
        pixel_loss=pointer(pixel_loss),
        grad_logits=pointer(gradient),
        grad_channels_last=map_format(logits) is torch.channels_last,
    )
    if bad >= 0:
        raise bad_target(target, bad, logits.shape[1], ignore_index)
    return loss_sum, weight_sum
