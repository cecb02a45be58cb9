"""permutohedral_filter through CUDA kernels, as many images at a time as a lattice holds."""

from __future__ import annotations

import torch

from ...dtypes import widened
from .device_lattice import DeviceLattice, images_per_lattice


def build(features: torch.Tensor) -> list[DeviceLattice]:
    """The lattices of features [N, D, P], as many images in each as its numbers hold.

    Raises:
        ValueError: features that are not finite or too large.
    """
    features = _prepared(features)
    padded = -(-features.shape[2] // 4) * 4
    step = images_per_lattice((features.shape[1] + 1) * padded)
    return [DeviceLattice(features[n : n + step], n) for n in range(0, features.shape[0], step)]


def filter_with(
    lattices: list[DeviceLattice], values: torch.Tensor, transpose: bool
) -> torch.Tensor:
    """values [N, L, P] filtered by built lattices."""
    values = values.detach().contiguous()
    if len(lattices) == 1:
        return lattices[0].filter(values, transpose)
    parts = values.split([lattice.batch for lattice in lattices])
    return torch.cat([of.filter(v, transpose) for of, v in zip(lattices, parts, strict=True)])


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor, transpose: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to values and features."""
    lattices, prepared = build(features), _prepared(features)
    values, grad_out = values.detach().contiguous(), grad_out.detach().contiguous()
    if len(lattices) == 1:
        grads = lattices[0].backward(grad_out, values, prepared, transpose)
        return grads[0], grads[1].to(features.dtype)
    sizes = [lattice.batch for lattice in lattices]
    parts = zip(
        lattices, grad_out.split(sizes), values.split(sizes), prepared.split(sizes), strict=True
    )
    grads_of = [of.backward(g, v, f, transpose) for of, g, v, f in parts]
    grad_values, grad_features = (torch.cat(g) for g in zip(*grads_of, strict=True))
    return grad_values, grad_features.to(features.dtype)


def _prepared(x: torch.Tensor) -> torch.Tensor:
    return widened(x.detach()).contiguous()
