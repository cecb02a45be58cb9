"""upsample_argmax through the native core."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native


def unsupported_reason(logits: torch.Tensor, *_: Any) -> str | None:
    """Why this backend cannot run on logits, or None."""
    return _native.unsupported_reason(logits, cuda=True)


def logits_shape(logits: torch.Tensor, size: list[int] | torch.Size, align_corners: bool) -> Any:
    """The native description of strided logits [N, C, H, W] and an output size."""
    assert _native._C is not None
    strides = logits.stride()
    return _native._C.upsample_argmax.Shape(
        batch=logits.shape[0],
        classes=logits.shape[1],
        in_h=logits.shape[2],
        in_w=logits.shape[3],
        out_h=size[0],
        out_w=size[1],
        align_corners=align_corners,
        stride_n=strides[0],
        stride_c=strides[1],
        stride_h=strides[2],
        stride_w=strides[3],
    )


def forward(logits: torch.Tensor, size: list[int], align_corners: bool) -> torch.Tensor:
    """Labels [N, *size]."""
    assert _native._C is not None
    dtype = torch.uint8 if logits.shape[1] <= 256 else torch.int32
    labels = torch.empty((logits.shape[0], *size), dtype=dtype, device=logits.device)
    if labels.numel() > 0:
        _native.launch(
            _native._C.upsample_argmax,
            "forward",
            logits,
            _native.dtype_code(logits),
            _native.LABEL_CODES[dtype],
            logits.data_ptr(),
            labels.data_ptr(),
            logits_shape(logits, size, align_corners),
        )
    return labels
