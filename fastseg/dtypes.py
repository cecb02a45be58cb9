"""The dtypes that ops compute in and return, one rule for all of them."""

from __future__ import annotations

import torch


def compute_dtype(*tensors: torch.Tensor) -> torch.dtype:
    """The dtype of sums and weights: float64 if one of the tensors is float64, else float32."""
    double = any(x.dtype is torch.float64 for x in tensors)
    return torch.float64 if double else torch.float32


def widened(x: torch.Tensor) -> torch.Tensor:
    """x in its compute dtype."""
    return x.to(compute_dtype(x))


def label_dtype(classes: int) -> torch.dtype:
    """The dtype of a label map with this many classes: uint8 for up to 256, else int32."""
    return torch.uint8 if classes <= 256 else torch.int32
