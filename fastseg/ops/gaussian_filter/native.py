"""gaussian_filter through the native core: C++ on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...dtypes import compute_dtype

_NAME = "gaussian_filter"


def unsupported_reason(function: str, **tensors: torch.Tensor) -> str | None:
    """Why this backend cannot run `function` on these tensors, or None."""
    reasons = (_native.unsupported_reason(x, cuda=False) for x in tensors.values())
    return next((reason for reason in reasons if reason is not None), None)


def forward(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """[N, L, P]."""
    f = features.to(compute_dtype(values, features)).contiguous()
    out = f.new_empty(values.shape)
    if out.numel() > 0:
        rows = _rows(values, f)
        _native.core(_NAME).cpu_forward(
            _native.dtype_code(f),
            rows.data_ptr(),
            f.data_ptr(),
            out.data_ptr(),
            _shape(values, f),
            torch.get_num_threads(),
        )
    return out.to(values.dtype)


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients [N, L, P] and [N, D, P]."""
    f = features.to(compute_dtype(values, features)).contiguous()
    grad_values, grad_features = f.new_empty(values.shape), f.new_empty(f.shape)
    if grad_values.numel() > 0:
        grad_rows, rows = _rows(grad_out, f), _rows(values, f)
        _native.core(_NAME).cpu_backward(
            _native.dtype_code(f),
            grad_rows.data_ptr(),
            rows.data_ptr(),
            f.data_ptr(),
            grad_values.data_ptr(),
            grad_features.data_ptr(),
            _shape(values, f),
            torch.get_num_threads(),
        )
    return grad_values.to(values.dtype), grad_features.to(features.dtype)


def _rows(values: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """[N, P, L] in f's dtype: the kernels read the values of a point side by side."""
    return values.to(f.dtype).transpose(1, 2).contiguous()


def _shape(values: torch.Tensor, f: torch.Tensor) -> Any:
    batch, labels, points = values.shape
    return _native.core(_NAME).Shape(batch=batch, labels=labels, dims=f.shape[1], points=points)
