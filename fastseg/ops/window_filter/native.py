"""window_filter through the native core: C++ on the CPU, CUDA C++ on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native

_NAME = "window_filter"


def unsupported_reason(function: str, *, features: torch.Tensor, **_: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    reason = _native.unsupported_reason(features, cuda=True)
    if reason is None and _native.on_cuda(features):
        most = _native.core(_NAME).cuda_max_dims
        if features.shape[1] > most:
            return f"{features.shape[1]} features (supported on a GPU: up to {most})"
    return reason


def forward(values: torch.Tensor, features: torch.Tensor, radius: int) -> torch.Tensor:
    """[N, L, H, W], contiguous."""
    out = _empty(values)
    if out.numel() > 0:
        _native.with_huge_pages(out)
        values, features = _readable(values), _readable(features)
        maps = (_map(values), _map(features))
        shape = _shape(values, features, radius)
        code = _native.dtype_code(values)
        _native.launch(_native.core(_NAME), "forward", values, code, *maps, out.data_ptr(), shape)
    return out


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, radius: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients [N, L, H, W] and [N, D, H, W], contiguous."""
    grad_out, values, features = map(_readable, (grad_out.to(values.dtype), values, features))
    grad_features = _empty(features)
    if grad_features.numel() > 0:
        maps = tuple(map(_map, (grad_out, values, features)))
        shape = _shape(values, features, radius)
        code = _native.dtype_code(values)
        arguments = (code, *maps, grad_features.data_ptr(), shape)
        _native.launch(_native.core(_NAME), "feature_gradient", values, *arguments)
    return forward(grad_out, features, radius), grad_features


def _empty(x: torch.Tensor) -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _readable(x: torch.Tensor) -> torch.Tensor:
    """x with dense rows, which threads of a warp read together; the CPU reads any strides."""
    dense = x.stride(3) == 1 or x.shape[3] == 1
    return x.contiguous() if _native.on_cuda(x) and not dense else x


def _map(x: torch.Tensor) -> Any:
    return _native.core(_NAME).Map(x.data_ptr(), *x.stride())


def _shape(values: torch.Tensor, features: torch.Tensor, radius: int) -> Any:
    batch, labels, height, width = values.shape
    dims = features.shape[1]
    return _native.core(_NAME).Shape(
        batch=batch, labels=labels, dims=dims, height=height, width=width, radius=radius
    )
