"""upsample_taps through the native core, in channels_last: C++ on the CPU, CUDA C++ on the GPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...layout import map_format

_NAME = "upsample_taps"


def unsupported_reason(function: str, **arguments: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    source = arguments["grad_out" if function == "backward" else "x"]
    return _native.unsupported_reason(source, cuda=True)


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
    """Map [N, C, *size]."""
    sources = [_channels_last(s) for s in (x, x2, x3, x4) if s is not None]
    layout = map_format(x if added is None else added)
    if added is not None:
        added = _channels_last(added)
    out = _empty(x, x.shape[1] // kernel**2, size, layout)
    if out.numel() == 0:
        return out
    _native.launch(
        _native.core(_NAME),
        "forward",
        x,
        _native.dtype_code(x),
        [(s.data_ptr(), s.shape[2], s.shape[3]) for s in sources],
        _native.address(added),
        out.data_ptr(),
        _shape(out, kernel, nearest, align_corners),
    )
    return out


def backward(
    grad_out: torch.Tensor,
    input_size: list[int],
    channels_last: bool,
    kernel: int,
    nearest: bool,
    align_corners: bool,
) -> torch.Tensor:
    """Gradient [N, kernel * kernel * C, *input_size]."""
    grad_out = _channels_last(grad_out)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    grad_x = _empty(grad_out, kernel**2 * grad_out.shape[1], input_size, layout)
    if grad_x.numel() == 0:
        return grad_x
    _native.launch(
        _native.core(_NAME),
        "backward",
        grad_out,
        _native.dtype_code(grad_out),
        grad_out.data_ptr(),
        grad_x.data_ptr(),
        *input_size,
        _shape(grad_out, kernel, nearest, align_corners),
    )
    return grad_x


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _empty(
    x: torch.Tensor, channels: int, size: list[int], layout: torch.memory_format
) -> torch.Tensor:
    """A result that the kernel writes in channels_last.

    With one channel or one pixel both formats are the same memory: it then has the strides of
    `layout`, that of the op's result.
    """
    shape = (x.shape[0], channels, *size)
    if channels > 1 and size[0] * size[1] > 1:
        layout = torch.channels_last
    return _native.with_huge_pages(
        torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    )


def _shape(large: torch.Tensor, kernel: int, nearest: bool, align_corners: bool) -> Any:
    """`large` is the result, or its gradient."""
    return _native.core(_NAME).Shape(
        batch=large.shape[0],
        channels=large.shape[1],
        out_h=large.shape[2],
        out_w=large.shape[3],
        kernel=kernel,
        nearest=nearest,
        align_corners=align_corners,
    )
