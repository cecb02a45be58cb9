"""gaussian_filter through the native core: C++ on the CPU."""

from __future__ import annotations

import torch

from ... import _native
from .reference import compute_dtype


def unsupported_reason(*tensors: torch.Tensor) -> str | None:
    """Why this backend cannot run on these tensors, or None."""
    reasons = (_native.unsupported_reason(x, cuda=False) for x in tensors)
    return next((reason for reason in reasons if reason is not None), None)


def forward(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """[N, L, P]."""
    f = features.to(compute_dtype(values, features)).contiguous()
    out = f.new_empty(values.shape)
    if out.numel() > 0:
        rows = _rows(values, f)
        _core().cpu_forward(
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
        _core().cpu_backward(
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


def _core():  # type: ignore[no-untyped-def]
    assert _native._C is not None
    return _native._C.gaussian_filter


def _rows(values: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
    """[N, P, L] in f's dtype: the kernels read the values of a point side by side."""
    return values.to(f.dtype).transpose(1, 2).contiguous()


def _shape(values: torch.Tensor, f: torch.Tensor):  # type: ignore[no-untyped-def]
    batch, labels, points = values.shape
    return _core().Shape(batch=batch, labels=labels, dims=f.shape[1], points=points)
