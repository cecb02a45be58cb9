"""upsample_cross_entropy through the native core."""

from __future__ import annotations

import math
from typing import Any

import torch

from ... import _native
from ..._checks import bad_target
from ...dtypes import compute_dtype
from ...layout import map_format
from . import native_cuda
from .native_shape import loss_shape
from .scale import scale_of_sum


def unsupported_reason(
    function: str,
    *,
    logits: torch.Tensor,
    with_gradient: bool = False,
    with_sums: bool = False,
    **_: Any,
) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    if with_gradient and _native.on_cuda(logits):
        return "on a GPU the gradient is computed by the backward"
    if with_sums and not _native.on_cuda(logits):
        return "the CPU kernels do not keep the sums of the softmax"
    return _native.unsupported_reason(logits, cuda=True)


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
    dtype = compute_dtype(logits)
    loss_dtype = dtype if wide_loss else logits.dtype
    empty = logits.new_empty((0,), dtype=dtype)
    if _native.on_cuda(logits):
        options = (weight, ignore_index, reduction, label_smoothing, align_corners)
        loss, sums, total_weight = native_cuda.forward(logits, target, *options, with_sums)
        loss = loss.to(loss_dtype)
        return loss, empty, empty.clone() if sums is None else sums, total_weight
    pixel_loss = torch.empty(target.shape, dtype=dtype) if reduction == "none" else None
    gradient = _empty_gradient(logits) if with_gradient else empty
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
        return pixel_loss.to(loss_dtype), gradient, empty.clone(), total_weight
    if reduction == "mean":
        loss_sum = loss_sum / weight_sum if weight_sum != 0.0 else math.nan
        if with_gradient and weight_sum != 0.0:
            gradient.mul_(1.0 / weight_sum)
    loss = torch.tensor(loss_sum, dtype=torch.float64)
    return loss.to(loss_dtype), gradient, empty.clone(), total_weight


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
    if _native.on_cuda(logits):
        options = (weight, ignore_index, reduction, label_smoothing, align_corners)
        if sums is None:
            _, sums, _ = native_cuda.forward(logits, target, *options, True)
            assert sums is not None
        return native_cuda.backward(grad_loss, total_weight, sums, logits, target, *options)
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
    return gradient.to(logits.dtype)


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
    _native.check_elements(logits)
    core = _native.core("upsample_cross_entropy")
    target = target.contiguous()
    if weight is not None:
        weight = weight.to(compute_dtype(logits)).contiguous()
    loss_sum, weight_sum, bad = core.cpu_run(
        _native.dtype_code(logits),
        _native.LABEL_CODES[target.dtype],
        loss_shape(logits, target, ignore_index, label_smoothing, align_corners),
        torch.get_num_threads(),
        logits=logits.data_ptr(),
        target=target.data_ptr(),
        class_weight=_native.address(weight),
        pixel_scale=_native.address(pixel_scale),
        pixel_loss=_native.address(pixel_loss),
        grad_logits=_native.address(gradient),
        grad_channels_last=map_format(logits) is torch.channels_last,
    )
    if bad >= 0:
        raise bad_target(target, bad, logits.shape[1], ignore_index)
    return loss_sum, weight_sum
