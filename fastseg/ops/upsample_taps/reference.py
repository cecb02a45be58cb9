"""The definition of upsample_taps in plain PyTorch: one matrix per axis, source and tap."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...dtypes import compute_dtype, widened


def forward(
    x: torch.Tensor,
    x2: torch.Tensor | None,
    x3: torch.Tensor | None,
    x4: torch.Tensor | None,
    added: torch.Tensor | None,
    size: list[int],
    kernel: int,
    nearest: bool,
    align_corners: bool,
) -> torch.Tensor:
    """Map [N, C, *size], computed in float32 or float64."""
    total = None if added is None else widened(added)
    for source in (x, x2, x3, x4):
        if source is None:
            continue
        rows = spread(source, source.shape[2], size[0], kernel, nearest, align_corners)
        columns = spread(source, source.shape[3], size[1], kernel, nearest, align_corners)
        taps = widened(source).unflatten(1, (kernel, kernel, -1))  # [N, ky, kx, C, h, w]
        lines = torch.einsum("nklchw,lxw->nkchx", taps, columns)
        resized = torch.einsum("nkchx,kyh->ncyx", lines, rows)
        total = resized if total is None else total + resized
    assert total is not None
    return total.to(x.dtype)


def backward(
    grad_out: torch.Tensor,
    input_size: list[int],
    channels_last: bool,
    kernel: int,
    nearest: bool,
    align_corners: bool,
) -> torch.Tensor:
    """The adjoint: the same matrices, transposed."""
    height, width = grad_out.shape[2:]
    rows = spread(grad_out, input_size[0], height, kernel, nearest, align_corners)
    columns = spread(grad_out, input_size[1], width, kernel, nearest, align_corners)
    lines = torch.einsum("ncyx,kyh->nkchx", widened(grad_out), rows)
    return torch.einsum("nkchx,lxw->nklchw", lines, columns).flatten(1, 3).to(grad_out.dtype)


def spread(
    x: torch.Tensor, in_size: int, out_size: int, kernel: int, nearest: bool, align_corners: bool
) -> torch.Tensor:
    """What each output takes of each source, for each tap of an axis [kernel, out_size, in_size].

    The resize is F.interpolate's, of the columns of the identity; a tap takes what lies `tap -
    kernel // 2` further, and nothing from outside.
    """
    identity = torch.eye(in_size, dtype=torch.float64, device=x.device)[None]
    if nearest:
        # Float32 positions, as for maps of the usual dtypes.
        resized = F.interpolate(identity.float(), out_size, mode="nearest")
    else:
        resized = F.interpolate(identity, out_size, mode="linear", align_corners=align_corners)
    matrix = F.pad(resized[0].mT, (0, 0, kernel // 2, kernel // 2))
    return torch.stack([matrix[k : k + out_size] for k in range(kernel)]).to(compute_dtype(x))
