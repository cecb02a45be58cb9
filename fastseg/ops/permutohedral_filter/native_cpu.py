"""Lattices that the native core builds on the CPU: for CPU tensors, and some for a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from ... import _native
from .reference import bad_features

_NAME = "permutohedral_filter"

# Rows, weights and neighbours as in reference.Tables, but int32.
Arrays = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def build(features: torch.Tensor, first_image: int = 0) -> list[Any]:
    """The lattices of contiguous features [N, D, P], float32 or float64, on the CPU.

    Args:
        features: of the images.
        first_image: number of the first one, for the error's message.

    Raises:
        ValueError: features that are not finite or too large.
    """
    code, threads = _native.dtype_code(features), torch.get_num_threads()
    handles, bad = _native.core(_NAME).cpu_build(
        code, features.data_ptr(), *features.shape, threads
    )
    if handles is None:
        image, pixel = bad
        raise bad_features(features[image], pixel, first_image + image)
    return handles


def tables(handle: Any) -> Arrays:
    """Copies of a lattice's arrays."""
    block = _native.core(_NAME).block
    corners, blocks = handle.features + 1, -(-handle.pixels // block)
    float_type = torch.float64 if handle.dtype == 3 else torch.float32

    def copied(address: int, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        out = torch.empty(shape, dtype=dtype, device="cpu")
        ctypes.memmove(out.data_ptr(), address, out.nbytes)
        return out

    def by_corner(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1).reshape(corners, -1)[:, : handle.pixels]

    rows = copied(handle.rows, torch.int32, blocks, corners, block)
    weights = copied(handle.weights, float_type, blocks, corners, block)
    neighbours = copied(handle.neighbours, torch.int32, corners, handle.vertices, 2)
    return by_corner(rows), by_corner(weights), neighbours


def in_blocks(by_pixel: torch.Tensor) -> torch.Tensor:
    """[P, D + 1] as weights_to_features takes it, [blocks, D + 1, block]."""
    block = _native.core(_NAME).block
    pixels, corners = by_pixel.shape
    padded = torch.nn.functional.pad(by_pixel, (0, 0, 0, -pixels % block))
    return padded.view(-1, block, corners).transpose(1, 2).contiguous()


def weights_to_features(features: torch.Tensor, grad_weights: torch.Tensor) -> torch.Tensor:
    """Gradient to features [D, P] from that to a lattice's weights [blocks, D + 1, block]."""
    grad = torch.empty_like(features)
    _native.core(_NAME).cpu_backward_features(
        _native.dtype_code(features),
        features.data_ptr(),
        *features.shape,
        grad_weights.data_ptr(),
        grad.data_ptr(),
        torch.get_num_threads(),
    )
    return grad
