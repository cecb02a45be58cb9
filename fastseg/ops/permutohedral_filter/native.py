"""permutohedral_filter through the native core: C++ on the CPU; native_cuda.py on the GPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...dtypes import widened
from . import device_lattice, native_cpu, native_cuda

_NAME = "permutohedral_filter"

# Built lattices. On the CPU fastseg._C.permutohedral_filter.Lattice, one per image, or one for all;
# on the GPU device_lattice.DeviceLattice, each of several images.
Handles = list[Any]


def unsupported_reason(function: str, *, features: torch.Tensor, **_: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    reason = _native.unsupported_reason(features, cuda=True)
    if reason is not None or not _native.on_cuda(features):
        return reason
    padded_corners = (features.shape[1] + 1) * (features.shape[2] + 3)
    if device_lattice.images_per_lattice(padded_corners) == 0:
        return (
            f"{features.shape[2]} pixels with {features.shape[1]} features (2^30 corners at most)"
        )
    return None


def _prepared(x: torch.Tensor) -> torch.Tensor:
    return widened(x.detach()).contiguous()


def build(features: torch.Tensor) -> Handles:
    """The lattices of features [N, D, P].

    Raises:
        ValueError: features that are not finite or too large.
    """
    features = _prepared(features)
    return (native_cuda if _native.on_cuda(features) else native_cpu).build(features)


def build_of_image(image: torch.Tensor, widths: torch.Tensor) -> Handles | int:
    """The lattice of one image as Lattice.of_image has it, or the first pixel that has no place."""
    handle, bad = _native.core(_NAME).cpu_build_image(
        image.data_ptr(), *image.shape, widths.tolist(), torch.get_num_threads()
    )
    return bad if handle is None else [handle]


def filter_with(handles: Handles, values: torch.Tensor, transpose: bool) -> torch.Tensor:
    """values [N, L, P] filtered by built lattices, in the dtype of values."""
    if _native.on_cuda(values):
        return native_cuda.filter_with(handles, values, transpose)
    prepared = _prepared(values)
    out = _native.new_scratch(prepared, *prepared.shape)
    _native.core(_NAME).cpu_filter(
        handles,
        *prepared.shape[:2],
        prepared.data_ptr(),
        out.data_ptr(),
        transpose,
        torch.get_num_threads(),
    )
    return out.to(values.dtype)


def norm_factors(handles: Handles, like: torch.Tensor, power: float) -> torch.Tensor:
    """The norms of lattices on the CPU [N, P], in the dtype of `like`, for a power of 1; for -1 and
    -0.5 that power of norm + 1e-20."""
    out = _native.new_scratch(like, len(handles), handles[0].pixels)
    factor = {1.0: 0, -1.0: 1, -0.5: 2}[power]
    _native.core(_NAME).cpu_norm(handles, factor, out.data_ptr(), torch.get_num_threads())
    return out


def forward(values: torch.Tensor, features: torch.Tensor, transpose: bool) -> torch.Tensor:
    """Filtered values [N, L, P]."""
    if values.shape[0] == 0:
        return torch.empty(values.shape, dtype=values.dtype, device=values.device)
    return filter_with(build(features), values, transpose)


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, transpose: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to values and features."""
    batch, labels = values.shape[:2]
    if batch == 0:
        empty = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        return empty, torch.zeros_like(features)
    if _native.on_cuda(values):
        return native_cuda.backward(grad_out, values, features, transpose)
    handles = build(features)
    prepared, grad, threads = _prepared(values), _prepared(grad_out), torch.get_num_threads()
    block = _native.core(_NAME).block
    blocks = -(-values.shape[2] // block)
    grad_values = torch.empty_like(prepared)
    grad_weights = prepared.new_empty(batch, blocks, features.shape[1] + 1, block)
    _native.core(_NAME).cpu_backward(
        handles,
        batch,
        labels,
        prepared.data_ptr(),
        grad.data_ptr(),
        grad_values.data_ptr(),
        grad_weights.data_ptr(),
        transpose,
        threads,
    )
    if len(handles) < batch:
        grad_weights = grad_weights.sum(0, keepdim=True)
    grad_features = torch.stack(
        [
            native_cpu.weights_to_features(image, weights)
            for image, weights in zip(_prepared(features), grad_weights, strict=True)
        ]
    )
    return grad_values.to(values.dtype), grad_features.to(features.dtype)


def num_vertices(handles: Handles) -> list[int]:
    """Of the lattice of each image."""
    if isinstance(handles[0], device_lattice.DeviceLattice):
        return [count for lattice in handles for count in lattice.num_vertices]
    return [handle.vertices for handle in handles]


def tables(handles: Handles, image: int) -> native_cpu.Arrays:
    """Copies of an image's lattice, as in reference.Tables (rows and neighbours as int32)."""
    if not isinstance(handles[0], device_lattice.DeviceLattice):
        return native_cpu.tables(handles[image])
    for lattice in handles:
        if image < lattice.batch:
            return lattice.tables(image)
        image -= lattice.batch
    raise IndexError(image)
