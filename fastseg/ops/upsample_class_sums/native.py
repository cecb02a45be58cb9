"""upsample_class_sums through the native core."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ..._checks import bad_target
from ...layout import map_format
from .reference import label_count
from .sums import NAMES, compute_dtype

# The codes of csrc/upsample_class_sums/upsample_class_sums.h.
LABELS, VALUES, TEACHER = 0, 1, 2
COMPUTE_TYPE = 3


def unsupported_reason(*args: Any) -> str | None:
    """Why this backend cannot run on logits, or None."""
    logits = args[0] if len(args) == 10 else args[1]
    return _native.unsupported_reason(logits, cuda=False)


def forward(
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
) -> torch.Tensor:
    """Sums [N, len(sums), C], float64."""
    shape = (logits.shape[0], len(sums), logits.shape[1])
    result = torch.empty(shape, dtype=torch.float64, device=logits.device)
    options = (sums, activation, size, ignore_index, gamma, reduced_threshold, align_corners)
    bad = _run(logits, target, pixel_weight, *options, result=result)
    if bad >= 0:
        raise bad_target(target, bad, label_count(logits, activation), ignore_index)
    return result


def backward(
    grad_sums: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
) -> torch.Tensor:
    """Gradient [N, C, h, w]."""
    dtype = compute_dtype(logits)
    gradient = torch.empty_like(logits, dtype=dtype, memory_format=map_format(logits))
    options = (sums, activation, size, ignore_index, gamma, reduced_threshold, align_corners)
    coefficients = grad_sums.to(dtype).contiguous()
    _run(logits, target, pixel_weight, *options, coefficients=coefficients, gradient=gradient)
    return gradient.to(logits.dtype)


def _run(
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
    *,
    result: torch.Tensor | None = None,
    coefficients: torch.Tensor | None = None,
    gradient: torch.Tensor | None = None,
) -> int:
    """Fills the tensors that are given; returns the flat index of the first bad label, or -1."""
    if logits.shape[0] == 0:
        return -1
    assert _native._C is not None
    dtype = compute_dtype(logits)
    kind = TEACHER if size is not None else LABELS if target.dim() == 3 else VALUES
    integers = kind != TEACHER and target.dtype in _native.LABEL_CODES
    target = (target if integers else target.to(dtype)).contiguous()
    weight = None if pixel_weight is None else pixel_weight.to(dtype).contiguous()
    full = target.shape[-2:] if size is None else size
    teacher = target.shape[-2:] if kind == TEACHER else (0, 0)
    strides = logits.stride()
    core = _native._C.upsample_class_sums
    shape = core.Shape(
        batch=logits.shape[0],
        classes=logits.shape[1],
        in_h=logits.shape[2],
        in_w=logits.shape[3],
        out_h=full[0],
        out_w=full[1],
        align_corners=align_corners,
        stride_n=strides[0],
        stride_c=strides[1],
        stride_h=strides[2],
        stride_w=strides[3],
        teacher_h=teacher[0],
        teacher_w=teacher[1],
        sigmoid=activation == "sigmoid",
        ignore_index=ignore_index,
        gamma=gamma,
        reduced_threshold=reduced_threshold,
    )
    return core.cpu_run(
        _native.dtype_code(logits),
        kind,
        _native.LABEL_CODES[target.dtype] if integers else COMPUTE_TYPE,
        shape,
        torch.get_num_threads(),
        slots=[sums.index(k) if k in sums else -1 for k in range(len(NAMES))],
        kept=len(sums),
        logits=logits.data_ptr(),
        target=target.data_ptr(),
        pixel_weight=0 if weight is None else weight.data_ptr(),
        sums=0 if result is None else result.data_ptr(),
        coefficients=0 if coefficients is None else coefficients.data_ptr(),
        grad_logits=0 if gradient is None else gradient.data_ptr(),
        grad_channels_last=map_format(logits) is torch.channels_last,
    )
