"""deformable_attention through the native core: C++ on the CPU, CUDA C++ on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...dtypes import compute_dtype

_NAME = "deformable_attention"


def unsupported_reason(
    function: str, *, value: torch.Tensor, shapes: list[int], locations: torch.Tensor, **_: Any
) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    reason = _native.unsupported_reason(value, cuda=True)
    if reason is None and _native.on_cuda(value):
        most = _native.core(_NAME).cuda_max_levels
        if len(shapes) // 2 > most:
            return f"{len(shapes) // 2} levels (supported on a GPU: up to {most})"
        n, cells, heads, channels = value.shape
        bins = sum((h + 1) * (w + 1) for h, w in zip(shapes[::2], shapes[1::2], strict=True))
        points = locations.numel() // 2
        if max(n * heads * bins, points, heads * channels, n * heads * cells) >= 2**31 - 1:
            return "2**31 or more points, cells of all heads, or channels of a cell on a GPU"
    return reason


def forward(
    value: torch.Tensor, shapes: list[int], locations: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """[N, Lq, M * D]"""
    n, _, m, d = value.shape
    out = value.new_empty((n, locations.shape[1], m * d))
    if out.numel() > 0:
        value, locations, weights = _readable(value, locations, weights)
        pointers = (value.data_ptr(), locations.data_ptr(), weights.data_ptr(), out.data_ptr())
        _launch("forward", value, *pointers, *_sizes(value, shapes, locations))
    return out


def backward(
    grad_out: torch.Tensor,
    value: torch.Tensor,
    shapes: list[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients to value, locations and weights."""
    grad_out = grad_out.to(value.dtype).contiguous()
    dtypes = locations.dtype, weights.dtype
    value, locations, weights = _readable(value, locations, weights)
    grads = [torch.empty_like(x) for x in (value, locations, weights)]
    if locations.numel() == 0 or value.numel() == 0:
        grads = [g.zero_() for g in grads]
    elif _native.on_cuda(value):
        _backward_on_cuda(grad_out, value, shapes, locations, weights, grads)
    else:
        pointers = [x.data_ptr() for x in (grad_out, value, locations, weights, *grads)]
        _launch("backward", value, *pointers, *_sizes(value, shapes, locations))
    return grads[0], grads[1].to(dtypes[0]), grads[2].to(dtypes[1])


def _backward_on_cuda(
    grad_out: torch.Tensor,
    value: torch.Tensor,
    shapes: list[int],
    locations: torch.Tensor,
    weights: torch.Tensor,
    grads: list[torch.Tensor],
) -> None:
    """Two kernels, and between them a stable sort of the points by the cell that they begin in."""
    grad_value, grad_locations, grad_weights = (g.data_ptr() for g in grads)
    sizes = _sizes(value, shapes, locations)
    bin_of = torch.empty(weights.shape, dtype=torch.int32, device=value.device)
    inputs = [x.data_ptr() for x in (grad_out, value, locations, weights)]
    results = (grad_locations, grad_weights, bin_of.data_ptr())
    _launch("backward_points", value, *inputs, *results, *sizes)
    bins = _native.core(_NAME).bins(*sizes)
    sorted_bins, points = bin_of.flatten().sort(stable=True)
    every = torch.arange(bins + 1, dtype=torch.int32, device=value.device)
    begins = torch.searchsorted(sorted_bins, every)
    inputs = [x.data_ptr() for x in (grad_out, locations, weights, points, begins)]
    _launch("backward_value", value, *inputs, grad_value, *sizes)


def _readable(
    value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Contiguous; locations and weights in the dtype of sums, as kernels read them."""
    dtype = compute_dtype(value)
    return value.contiguous(), locations.to(dtype).contiguous(), weights.to(dtype).contiguous()


def _sizes(value: torch.Tensor, shapes: list[int], locations: torch.Tensor) -> tuple[Any, Any]:
    core = _native.core(_NAME)
    shape = core.Shape(
        batch=value.shape[0],
        cells=value.shape[1],
        heads=value.shape[2],
        channels=value.shape[3],
        queries=locations.shape[1],
        points=locations.shape[4],
    )
    return shape, core.Levels(shapes)


def _launch(function: str, value: torch.Tensor, *args: Any) -> None:
    _native.launch(_native.core(_NAME), function, value, _native.dtype_code(value), *args)
