"""pyramid_pool through the native core: C++ on the CPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...layout import map_format
from .cells import empty_cells, empty_gradient, order_cells


def unsupported_reason(x: torch.Tensor, *_: Any) -> str | None:
    """Why this backend cannot run on x (or grad_out), or None."""
    return _native.unsupported_reason(x, cuda=False)


def forward(x: torch.Tensor, bins: list[int]) -> torch.Tensor:
    """Cells [N, C, sum(b * b)]."""
    x = x.contiguous(memory_format=map_format(x))
    out = empty_cells(x, bins)
    _launch("forward", x, out, x, bins, map_format(x) is torch.channels_last)
    return out


def backward(
    grad_out: torch.Tensor, input_size: list[int], bins: list[int], channels_last: bool
) -> torch.Tensor:
    """Gradient [N, C, *input_size]."""
    grad_out = order_cells(grad_out, channels_last)
    grad_x = empty_gradient(grad_out, input_size, bins, channels_last)
    _native.with_huge_pages(grad_x)
    _launch("backward", grad_out, grad_x, grad_x, bins, channels_last)
    return grad_x


def _launch(
    direction: str,
    source: torch.Tensor,
    target: torch.Tensor,
    pixels: torch.Tensor,
    bins: list[int],
    channels_last: bool,
) -> None:
    """`pixels` is the map before the pooling."""
    if target.numel() == 0:
        return
    assert _native._C is not None
    core = _native._C.pyramid_pool
    shape = core.Shape(
        batch=pixels.shape[0],
        channels=pixels.shape[1],
        in_h=pixels.shape[2],
        in_w=pixels.shape[3],
        channels_last=channels_last,
    )
    getattr(core, f"cpu_{direction}")(
        _native.dtype_code(source),
        source.data_ptr(),
        target.data_ptr(),
        shape,
        bins,
        torch.get_num_threads(),
    )
