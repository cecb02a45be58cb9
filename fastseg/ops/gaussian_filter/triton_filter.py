"""gaussian_filter through Triton: tensor cores, and no pairs of tiles that are far apart.

Sums and weights are float32, as the native backend's; float16 and bfloat16 values are multiplied
with weights of TF32, which keep more digits than they have.
"""

from __future__ import annotations

import torch

from ... import _triton
from .triton_config import MAX_DIMS, TILE

_TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Steps of 16 labels of whole tiles are 32 bits wide.
_MAX_POINTS = (1 << 27) - TILE + 1


def unsupported_reason(function: str, **tensors: torch.Tensor) -> str | None:
    """Why this backend cannot run `function` on these tensors, or None."""
    features = tensors["features"]
    for x in tensors.values():
        if x.dtype not in _TYPES:
            return f"dtype {x.dtype} (supported: float32, bfloat16, float16)"
    if features.shape[1] > MAX_DIMS:
        return f"{features.shape[1]} features of a point (supported: at most {MAX_DIMS})"
    if features.shape[2] >= _MAX_POINTS:
        return f"{features.shape[2]} points (supported: fewer than {_MAX_POINTS})"
    return _triton.unsupported_reason(features)


def passed_over(function: str, *, features: torch.Tensor, **_: torch.Tensor) -> str | None:
    """Why another backend runs although this one could."""
    return "the interpreter is for tests" if features.device.type == "cpu" else None


def forward(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """[N, L, P]."""
    from .triton_launch import arrange, filter_values

    if values.numel() == 0:
        return values.new_empty(values.shape)
    return filter_values(values, arrange(features))


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients [N, L, P] and [N, D, P]."""
    from .triton_launch import arrange, feature_gradient, filter_values

    if values.numel() == 0:
        return values.new_empty(values.shape), features.new_empty(features.shape)
    points = arrange(features)
    grad_values = filter_values(grad_out.to(values.dtype), points)
    return grad_values, feature_gradient(grad_out, values, points, features.dtype)
