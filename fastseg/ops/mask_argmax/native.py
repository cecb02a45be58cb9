"""mask_argmax through the native core: C++ on the CPU, CUDA C++ on a GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ... import _native
from ...dtypes import compute_dtype, label_dtype

_NAME = "mask_argmax"


def unsupported_reason(function: str, *, masks: torch.Tensor, **_: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    reason = _native.unsupported_reason(masks, cuda=True)
    if reason is None and _native.on_cuda(masks):
        most = _native.core(_NAME).max_queries(_native.dtype_code(masks))
        if masks.shape[1] > most:
            return f"{masks.shape[1]} queries (supported on a GPU: up to {most} in {masks.dtype})"
    return reason


def forward(
    masks: torch.Tensor,
    class_probs: torch.Tensor,
    size: list[int],
    crop: list[int],
    out_size: list[int],
) -> torch.Tensor:
    """Labels [N, *out_size]."""
    classes = class_probs.shape[2]
    dtype = label_dtype(classes)
    labels = torch.empty((masks.shape[0], *out_size), dtype=dtype, device=masks.device)
    if labels.numel() == 0:
        return labels
    core = _native.core(_NAME)
    probabilities = class_probs.to(compute_dtype(masks))
    if _native.on_cuda(masks):  # in whole packs
        probabilities = F.pad(probabilities, (0, -classes % core.class_multiple))
    probabilities = probabilities.contiguous()
    batch, queries, height, width = masks.shape
    stride = masks.stride()
    shape = core.Shape(
        batch=batch,
        queries=queries,
        classes=classes,
        in_h=height,
        in_w=width,
        size_h=size[0],
        size_w=size[1],
        crop_h=crop[0],
        crop_w=crop[1],
        out_h=out_size[0],
        out_w=out_size[1],
        stride_n=stride[0],
        stride_q=stride[1],
        stride_h=stride[2],
        stride_w=stride[3],
    )
    codes = (_native.dtype_code(masks), _native.LABEL_CODES[dtype])
    pointers = (masks.data_ptr(), probabilities.data_ptr(), labels.data_ptr())
    _native.launch(core, "forward", masks, *codes, *pointers, shape)
    return labels
