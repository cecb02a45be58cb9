"""upsample_bilinear through the native core: C++ on the CPU, CUDA C++ on the GPU."""

from __future__ import annotations

import functools
from typing import Any

import torch

from ... import _native
from ...layout import empty_map, map_format

# Values of a result that one thread writes in about the time in which another one wakes.
_OF_ONE_THREAD = 1 << 18


def unsupported_reason(function: str, **arguments: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    source = arguments["grad_out" if function == "backward" else "x"]
    return _native.unsupported_reason(source, cuda=True)


def forward(
    x: torch.Tensor,
    size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> torch.Tensor:
    """Map [N, C, *size]."""
    out = _native.with_huge_pages(empty_map(x, x.shape[1], size))
    forward_out(x, size, align_corners, scale_h, scale_w, out)
    return out


def quick_forward(x: torch.Tensor, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    """`forward` of a small float32 map on the CPU, with as little around the kernel as can be."""
    layout = map_format(x)
    x = x.contiguous(memory_format=layout)
    batch, channels, height, width = x.shape
    out = torch.empty((batch, channels, *size), memory_format=layout)
    key = (batch, channels, height, width, *size, align_corners, layout is torch.channels_last)
    pointers = (x.data_ptr(), out.data_ptr())
    _native.core("upsample_bilinear").cpu_forward(
        _native.dtype_code(x), *pointers, _shape(*key), _threads(out)
    )
    return out


@functools.lru_cache(maxsize=64)
def _shape(
    batch: int,
    channels: int,
    in_h: int,
    in_w: int,
    out_h: int,
    out_w: int,
    align_corners: bool,
    channels_last: bool,
) -> Any:
    return _native.core("upsample_bilinear").Shape(
        batch=batch,
        channels=channels,
        in_h=in_h,
        in_w=in_w,
        out_h=out_h,
        out_w=out_w,
        align_corners=align_corners,
        scale_h=0.0,
        scale_w=0.0,
        channels_last=channels_last,
    )


def _threads(out: torch.Tensor) -> int:
    """One for a small map: a second one would have to be woken, which takes longer."""
    return 1 if out.numel() <= _OF_ONE_THREAD else torch.get_num_threads()


def forward_out(
    x: torch.Tensor,
    size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
    out: torch.Tensor,
) -> None:
    """Writes the map [N, C, *size] to out, which has the memory format of x."""
    x = x.contiguous(memory_format=map_format(x))
    _launch("forward", x, out, x, out, align_corners, scale_h, scale_w)


def backward(
    grad_out: torch.Tensor,
    input_size: list[int],
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> torch.Tensor:
    """Gradient [N, C, *input_size]."""
    grad_out = grad_out.contiguous(memory_format=map_format(grad_out))
    grad_x = _native.with_huge_pages(empty_map(grad_out, grad_out.shape[1], input_size))
    _launch("backward", grad_out, grad_x, grad_x, grad_out, align_corners, scale_h, scale_w)
    return grad_x


def _launch(
    direction: str,
    source: torch.Tensor,
    target: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    align_corners: bool,
    scale_h: float | None,
    scale_w: float | None,
) -> None:
    """`low` is the map before the resize, `high` the one after it."""
    if target.numel() == 0:
        return
    core = _native.core("upsample_bilinear")
    shape = core.Shape(
        batch=low.shape[0],
        channels=low.shape[1],
        in_h=low.shape[2],
        in_w=low.shape[3],
        out_h=high.shape[2],
        out_w=high.shape[3],
        align_corners=align_corners,
        scale_h=scale_h or 0.0,
        scale_w=scale_w or 0.0,
        channels_last=map_format(source) is torch.channels_last,
    )
    pointers = (source.data_ptr(), target.data_ptr())
    _native.launch(core, direction, source, _native.dtype_code(source), *pointers, shape)
