"""A 3x3 convolution of a map doubled to the nearest pixel, as four 2x2 convolutions of the map.

Of three neighbours in the doubled map two are the same pixel: at even places the first stands
alone, at odd places the last, and the kernel's weights of the other two are summed. So each of the
four phases of the result (even or odd row, even or odd column) is a 2x2 convolution of the small
map: 16 instead of 36 products per pixel of it. The zero padding is exact.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ..._private_torch import may_write_in_place
from ...layout import in_format

# By phase and pixel of the small map: which of the kernel's three weights are summed.
_SUMS = (((1.0, 0.0, 0.0), (0.0, 1.0, 1.0)), ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))


def doubles(part: torch.Tensor, size: list[int], mode: str) -> bool:
    """Whether part is resized to exactly twice its size, to the nearest pixel."""
    return mode == "nearest" and size[0] == 2 * part.shape[2] and size[1] == 2 * part.shape[3]


def add_phases(added: torch.Tensor | None, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """added + the convolution of the doubled x, in channels_last; `added` is overwritten.

    Args:
        added: map [N, C_out, 2h, 2w], or None for zeros.
        x: map [N, C, h, w].
        weight: [C_out, C, 3, 3].
    """
    out_channels, channels = weight.shape[:2]
    # Sums of two or four weights in full precision, rounded once.
    exact = torch.promote_types(weight.dtype, torch.float32)
    sums = torch.tensor(_SUMS, dtype=exact, device=weight.device)
    kernels = torch.einsum("oikl,pak,qbl->pqoiab", weight.to(exact), sums, sums)
    kernels = kernels.reshape(4 * out_channels, channels, 2, 2).to(weight.dtype)
    # One more row and column than x has: phase 0 reads the first, phase 1 the last of two places.
    phases = F.conv2d(
        in_format(x, torch.channels_last),
        in_format(kernels, torch.channels_last),
        padding=1,
    )
    if added is not None:
        added = in_format(added, torch.channels_last)
    if not may_write_in_place(phases, phases if added is None else added):
        out = _interleaved(phases)
        return out if added is None else added + out
    return _Interleave.apply(phases, added)


def _slices(phases: torch.Tensor, large: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each phase its places in phases and in large, both as [N, h, w, C]."""
    height, width = large.shape[2] // 2, large.shape[3] // 2
    small = phases.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    rows = large.permute(0, 2, 3, 1)
    return [
        (small[:, p : p + height, q : q + width, p, q], rows[:, p::2, q::2])
        for p in range(2)
        for q in range(2)
    ]


def _interleaved(phases: torch.Tensor) -> torch.Tensor:
    """Phases [N, 4 * C, h + 1, w + 1] -> map [N, C, 2h, 2w], without a view of the result."""
    n, channels, height, width = phases.shape
    small = phases.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    rows = [
        torch.stack([small[:, p : p + height - 1, q : q + width - 1, p, q] for q in range(2)], 3)
        for p in range(2)
    ]
    out = torch.stack(rows, 2).view(n, 2 * height - 2, 2 * width - 2, channels // 4)
    return out.permute(0, 3, 1, 2)


class _Interleave(torch.autograd.Function):
    """The phases at their places, added to a map, which is overwritten."""

    @staticmethod
    def forward(phases: torch.Tensor, added: torch.Tensor | None) -> torch.Tensor:
        n, channels, height, width = phases.shape
        out = added
        if out is None:
            shape = (n, channels // 4, 2 * height - 2, 2 * width - 2)
            out = torch.empty(
                shape, dtype=phases.dtype, device=phases.device, memory_format=torch.channels_last
            )
        for small, large in _slices(phases, out):
            large.copy_(small) if added is None else large.add_(small)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        ctx.has_added = inputs[1] is not None
        if ctx.has_added:
            ctx.mark_dirty(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        return _Separate.apply(grad), grad if ctx.has_added else None


class _Separate(torch.autograd.Function):
    """The adjoint of _Interleave to the phases."""

    @staticmethod
    def forward(large: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = large.shape
        phases = torch.zeros(
            (n, height // 2 + 1, width // 2 + 1, 4 * channels),
            dtype=large.dtype,
            device=large.device,
        ).permute(0, 3, 1, 2)
        for small, source in _slices(phases, large):
            small.copy_(source)
        return phases

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return _Interleave.apply(grad, None)
