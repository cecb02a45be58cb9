"""The definition of upsample_bilinear in plain PyTorch: blend two rows, then two columns."""

from __future__ import annotations

from typing import Any

import torch

from ...dtypes import compute_dtype


def forward(
    x: torch.Tensor,
    size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> torch.Tensor:
    """Map [N, C, *size], computed in float32 or float64."""
    top, bottom, v = taps(x, x.shape[2], size[0], align_corners, scale_h)
    left, right, u = taps(x, x.shape[3], size[1], align_corners, scale_w)
    rows = x.to(v.dtype)
    rows = rows[:, :, top] * (1 - v)[:, None] + rows[:, :, bottom] * v[:, None]
    return (rows[..., left] * (1 - u) + rows[..., right] * u).to(x.dtype)


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
    """The adjoint, with one matrix [out, in] of weights per axis."""
    out_h, out_w = grad_out.shape[2:]
    rows = _matrix(input_size[0], *taps(grad_out, input_size[0], out_h, align_corners, scale_h))
    columns = _matrix(input_size[1], *taps(grad_out, input_size[1], out_w, align_corners, scale_w))
    return (rows.T @ grad_out.to(rows.dtype) @ columns).to(grad_out.dtype)


def taps(
    x: torch.Tensor,
    in_size: int,
    out_size: int,
    align_corners: bool,
    scale_factor: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each of `out_size` results: low and high source index, weight of the high one.

    The rule is F.interpolate's: position = (i + 0.5) * scale - 0.5, clamped at 0, or i * scale with
    align_corners; scale = 1 / scale_factor if given, else the ratio of the sizes. On x's device;
    weights in float64 for a float64 x, else in float32.
    """
    index = torch.arange(out_size, dtype=torch.float64, device=x.device)
    if in_size == out_size:
        position = index
    elif align_corners:
        position = index * ((in_size - 1) / (out_size - 1) if out_size > 1 else 0.0)
    else:
        scale = 1.0 / scale_factor if scale_factor is not None else in_size / out_size
        position = ((index + 0.5) * scale - 0.5).clamp_min(0.0)
    low = position.long().clamp_max(in_size - 1)
    # A size that is kept reads no neighbour, which may be infinite.
    high = low if in_size == out_size else (low + 1).clamp_max(in_size - 1)
    weight = (position - low).clamp_max(1.0)
    return low, high, weight.to(compute_dtype(x))


def _matrix(
    in_size: int, low: torch.Tensor, high: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    matrix = weight.new_zeros(len(weight), in_size)
    matrix.scatter_add_(1, low[:, None], 1.0 - weight[:, None])
    return matrix.scatter_add_(1, high[:, None], weight[:, None])
