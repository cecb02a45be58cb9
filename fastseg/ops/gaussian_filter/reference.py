"""The definition of gaussian_filter in plain PyTorch, some rows of the P x P weights at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ...dtypes import compute_dtype

_WEIGHTS_AT_A_TIME = 1 << 22


def forward(values: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """[N, L, P], computed in float32 or float64."""
    f = features.to(compute_dtype(values, features))
    v = values.to(f.dtype)
    parts = [v @ _differences_and_weights(f, rows)[1].mT for rows in _rows(f)]
    return torch.cat(parts, 2).to(values.dtype)


def feature_tangent(
    values: torch.Tensor, features: torch.Tensor, moved: torch.Tensor
) -> torch.Tensor:
    """The change of forward() [N, L, P] where the features change by `moved` [N, D, P]."""
    f = features.to(compute_dtype(values, features))
    v, m = values.to(f.dtype), moved.to(f.dtype)
    parts = []
    for rows in _rows(f):
        differences, weights = _differences_and_weights(f, rows)
        moves = m[:, :, rows, None] - m[:, :, None, :]
        parts.append(v @ (weights * (differences * moves).sum(1)).mT)
    return -torch.cat(parts, 2).to(values.dtype)


def backward(
    grad_out: torch.Tensor, values: torch.Tensor, features: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients [N, L, P] and [N, D, P]."""
    f = features.to(compute_dtype(values, features))
    v, g = values.to(f.dtype), grad_out.to(f.dtype)
    of_values, of_features = [], []
    for rows in _rows(f):
        differences, weights = _differences_and_weights(f, rows)
        of_values.append(g @ weights.mT)
        products = weights * (g[:, :, rows].mT @ v + v[:, :, rows].mT @ g)
        of_features.append(-(differences * products[:, None]).sum(3))
    return (
        torch.cat(of_values, 2).to(values.dtype),
        torch.cat(of_features, 2).to(features.dtype),
    )


def _rows(f: torch.Tensor) -> Iterator[slice]:
    batch, dims, points = f.shape
    step = max(1, _WEIGHTS_AT_A_TIME // max(1, batch * dims * points))
    for first in range(0, points, step):
        yield slice(first, first + step)


def _differences_and_weights(f: torch.Tensor, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """f_i - f_j [N, D, rows, P] and exp(-|f_i - f_j|^2 / 2) [N, rows, P]."""
    differences = f[:, :, rows, None] - f[:, :, None, :]
    return differences, torch.exp(-0.5 * differences.square().sum(1))
