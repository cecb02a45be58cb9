"""upsample_confusion_matrix through the native core."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ..._checks import bad_target
from ...target_checks import TargetCheck
from ..upsample_argmax.native import logits_shape


def unsupported_reason(function: str, *, logits: torch.Tensor, **_: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    return _native.unsupported_reason(logits, cuda=True)


def forward(
    logits: torch.Tensor, target: torch.Tensor, ignore_index: int, align_corners: bool
) -> torch.Tensor:
    """Counts [C, C]."""
    target = target.contiguous()
    classes = logits.shape[1]
    counts = torch.zeros((classes, classes), dtype=torch.int64, device=logits.device)
    if target.numel() == 0:
        return counts
    core = _native.core("upsample_confusion_matrix")
    arguments = (
        _native.dtype_code(logits),
        _native.LABEL_CODES[target.dtype],
        logits.data_ptr(),
        target.data_ptr(),
        ignore_index,
        counts.data_ptr(),
    )
    shape = logits_shape(logits, target.shape[1:], align_corners)
    if _native.on_cuda(logits):
        with TargetCheck(target, classes, ignore_index) as check:
            _native.launch(core, "forward", logits, *arguments, check.pointer, shape)
        return counts
    bad = _native.launch(core, "forward", logits, *arguments, shape)
    if bad >= 0:
        raise bad_target(target, bad, classes, ignore_index)
    return counts
