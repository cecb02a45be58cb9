"""upsample_argmax through the native core."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...dtypes import label_dtype


def unsupported_reason(function: str, *, logits: torch.Tensor, **_: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    return _native.unsupported_reason(logits, cuda=True)


def logits_shape(logits: torch.Tensor, size: list[int] | torch.Size, align_corners: bool) -> Any:
    """The native description of strided logits [N, C, H, W] and an output size."""
    shape = _native.core("upsample_argmax").Shape
    return shape(**_native.upsampled_logits(logits, size, align_corners))


def forward(logits: torch.Tensor, size: list[int], align_corners: bool) -> torch.Tensor:
    """Labels [N, *size]."""
    dtype = label_dtype(logits.shape[1])
    labels = torch.empty((logits.shape[0], *size), dtype=dtype, device=logits.device)
    if labels.numel() > 0:
        _native.launch(
            _native.core("upsample_argmax"),
            "forward",
            logits,
            _native.dtype_code(logits),
            _native.LABEL_CODES[dtype],
            logits.data_ptr(),
            labels.data_ptr(),
            logits_shape(logits, size, align_corners),
        )
    return labels
