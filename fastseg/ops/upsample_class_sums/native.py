"""upsample_class_sums through the native core."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from ... import _native
from ..._checks import bad_target
from ...dtypes import compute_dtype
from ...layout import map_format
from ...target_checks import TargetCheck
from .reference import label_count
from .sums import NAMES

# The codes of csrc/upsample_class_sums/upsample_class_sums.h.
LABELS, VALUES, TEACHER = 0, 1, 2
COMPUTE_TYPE = 3


def unsupported_reason(function: str, *, logits: torch.Tensor, **_: Any) -> str | None:
    """Why this backend cannot run `function` on logits, or None."""
    return _native.unsupported_reason(logits, cuda=True)


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
        classes = label_count(logits, target, activation)
        assert classes is not None
        raise bad_target(target, bad, classes, ignore_index)
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
    # The CPU kernels write it in the type that they compute in.
    kept = logits.dtype if _native.on_cuda(logits) else dtype
    gradient = torch.empty_like(logits, dtype=kept, memory_format=map_format(logits))
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
    dtype = compute_dtype(logits)
    kind = TEACHER if size is not None else LABELS if target.dim() == 3 else VALUES
    integers = kind != TEACHER and target.dtype in _native.LABEL_CODES
    target = (target if integers else target.to(dtype)).contiguous()
    weight = None if pixel_weight is None else pixel_weight.to(dtype).contiguous()
    full = target.shape[-2:] if size is None else size
    teacher = target.shape[-2:] if kind == TEACHER else (0, 0)
    core = _native.core("upsample_class_sums")
    shape = core.Shape(
        **_native.upsampled_logits(logits, full, align_corners),
        teacher_h=teacher[0],
        teacher_w=teacher[1],
        sigmoid=activation == "sigmoid",
        ignore_index=ignore_index,
        gamma=gamma,
        reduced_threshold=reduced_threshold,
    )
    arguments = {
        "slots": [sums.index(k) if k in sums else -1 for k in range(len(NAMES))],
        "kept": len(sums),
        "logits": _native.address(logits),
        "target": _native.address(target),
        "pixel_weight": _native.address(weight),
        "sums": _native.address(result),
        "coefficients": _native.address(coefficients),
        "grad_logits": _native.address(gradient),
        "grad_channels_last": map_format(logits) is torch.channels_last,
    }
    types = (
        _native.dtype_code(logits),
        kind,
        _native.LABEL_CODES[target.dtype] if integers else COMPUTE_TYPE,
    )
    if not _native.on_cuda(logits):
        return _native.launch(core, "run", logits, *types, shape, **arguments)
    arguments["bad"] = 0
    needed = core.cuda_run(*types, shape, 0, **arguments, workspace=0)
    workspace = torch.empty(needed, dtype=torch.uint8, device=logits.device)
    arguments["workspace"] = _native.address(workspace)
    classes = None if result is None else label_count(logits, target, activation)
    with contextlib.ExitStack() as stack:
        if classes is not None:
            check = TargetCheck(target, classes, ignore_index)
            arguments["bad"] = stack.enter_context(check).pointer
        _native.launch(core, "run", logits, *types, shape, **arguments)
    return -1
