"""The tiles that the Triton kernels are compiled in: these and no others.

tests/triton_kernels runs each of them in the interpreter and compiles each for every architecture.
"""

from __future__ import annotations

from typing import Literal

import torch

# "tf32": on tensor cores, which cut their factors; "tf32x3": the same with factors in two parts.
Precision = Literal["tf32", "tf32x3"]

WARPS = 4
STAGES = 3

# Points of a tile, and keys per step.
TILE = 64
KEYS = 32

# Labels of a program of filter_kernel, and per step of feature_gradient_kernel.
LABELS = (16, 32, 64)
GRADIENT_LABELS = 16

# Features of a point.
MAX_DIMS = 8

# Elements of a program of order_kernel, and of a step of near_kernel.
ORDER_BLOCK = 1024
NEAR_BLOCK = 128

# What the lists of near tiles may take; there is one of 4 bytes for every pair of tiles.
LIST_BYTES = 1 << 26


def precision(values: torch.Tensor) -> Precision:
    """Of products with these values: float32's for float32, unless torch is set to TF32."""
    is_exact = values.dtype is torch.float32 and not torch.backends.cuda.matmul.allow_tf32
    return "tf32x3" if is_exact else "tf32"


def label_block(labels: int) -> int:
    """Labels of a program."""
    return next((block for block in LABELS if block >= labels), LABELS[-1])


def order_bits(dims: int) -> int:
    """Bits of each coordinate in the place on the curve, an int64."""
    return min(16, 62 // dims)


def dims_block(dims: int) -> int:
    """Columns that hold this many features."""
    return 1 << (dims - 1).bit_length()
