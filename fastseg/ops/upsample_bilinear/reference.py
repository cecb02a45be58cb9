"""The definition of upsample_bilinear in plain PyTorch: one small matrix per axis."""

from __future__ import annotations

from typing import Any

import torch


def unsupported_reason(*_: Any) -> str | None:
    """Runs anywhere."""
    return None


def forward(
    x: torch.Tensor,
    size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> torch.Tensor:
    """rows [out_h, H] @ x [N, C, H, W] @ columns [out_w, W]^T, in float32 or float64."""
    rows = interpolation_matrix(x, x.shape[2], size[0], align_corners, scale_h)
    columns = interpolation_matrix(x, x.shape[3], size[1], align_corners, scale_w)
    return (rows @ x.to(rows.dtype) @ columns.T).to(x.dtype)


def forward_out(x: torch.Tensor, *args: Any) -> None:
    """Writes the result to the last argument."""
    *arguments, out = args
    out.copy_(forward(x, *arguments))


def backward(
    grad_out: torch.Tensor,
    input_size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> torch.Tensor:
    """The adjoint: the same matrices, transposed."""
    out_h, out_w = grad_out.shape[2:]
    rows = interpolation_matrix(grad_out, input_size[0], out_h, align_corners, scale_h)
    columns = interpolation_matrix(grad_out, input_size[1], out_w, align_corners, scale_w)
    return (rows.T @ grad_out.to(rows.dtype) @ columns).to(grad_out.dtype)


def interpolation_matrix(
    x: torch.Tensor,
    in_size: int,
    out_size: int,
    align_corners: bool,
    scale_factor: float | None,
) -> torch.Tensor:
    """Matrix [out_size, in_size] with at most two weights a row, on x's device.

    The rule is F.interpolate's: position = (i + 0.5) * scale - 0.5, clamped at 0, or i * scale with
    align_corners; scale = 1 / scale_factor if given, else the ratio of the sizes.
    """
    dtype = torch.float64 if x.dtype is torch.float64 else torch.float32
    index = torch.arange(out_size, dtype=torch.float64, device=x.device)
    if in_size == out_size:
        return torch.eye(in_size, dtype=dtype, device=x.device)
    if align_corners:
        position = index * ((in_size - 1) / (out_size - 1) if out_size > 1 else 0.0)
    else:
        scale = 1.0 / scale_factor if scale_factor is not None else in_size / out_size
        position = ((index + 0.5) * scale - 0.5).clamp_min(0.0)
    low = position.long().clamp_max(in_size - 1)
    high = (low + 1).clamp_max(in_size - 1)
    weight = (position - low).clamp_max(1.0)
    matrix = torch.zeros(out_size, in_size, dtype=torch.float64, device=x.device)
    matrix.scatter_add_(1, low[:, None], 1.0 - weight[:, None])
    matrix.scatter_add_(1, high[:, None], weight[:, None])
    return matrix.to(dtype)
