"""pyramid_pool through the native core: C++ on the CPU, CUDA C++ on the GPU."""

from __future__ import annotations

from typing import Any

import torch

from ... import _native
from ...layout import map_format
from .cells import empty_cells, empty_gradient, order_cells

_NAME = "pyramid_pool"


def unsupported_reason(function: str, *, bins: list[int], **arguments: Any) -> str | None:
    """Why this backend cannot run `function` on these arguments, or None."""
    backward = function == "backward"
    source = arguments["grad_out" if backward else "x"]
    reason = _native.unsupported_reason(source, cuda=True)
    if reason is None and _native.on_cuda(source):
        size = arguments["input_size"] if backward else source.shape[2:]
        core = _native.core(_NAME)
        if sum(bins) > core.cuda_max_windows or max(size) > core.cuda_max_axis:
            return (
                f"bins {tuple(bins)} of {size[0]} x {size[1]} pixels on a GPU (supported: a sum of "
                f"at most {core.cuda_max_windows}, and {core.cuda_max_axis} pixels of an axis)"
            )
    return reason


def forward(x: torch.Tensor, bins: list[int]) -> torch.Tensor:
    """Cells [N, C, sum(b * b)]."""
    x = x.contiguous(memory_format=map_format(x))
    out = empty_cells(x, bins)
    if out.numel() == 0:
        return out
    code, shape = _native.dtype_code(x), _shape(x, map_format(x) is torch.channels_last)
    bytes_ = _native.launch(_native.core(_NAME), "workspace_bytes", x, code, shape, bins)
    workspace = torch.empty(bytes_, dtype=torch.uint8, device=x.device)
    pointers = (x.data_ptr(), out.data_ptr(), workspace.data_ptr())
    _native.launch(_native.core(_NAME), "forward", x, code, *pointers, shape, bins)
    return out


def backward(
    grad_out: torch.Tensor, input_size: list[int], bins: list[int], channels_last: bool
) -> torch.Tensor:
    """Gradient [N, C, *input_size]."""
    grad_out = order_cells(grad_out, channels_last)
    grad_x = empty_gradient(grad_out, input_size, bins, channels_last)
    if grad_x.numel() == 0:
        return grad_x
    _native.with_huge_pages(grad_x)
    code, shape = _native.dtype_code(grad_x), _shape(grad_x, channels_last)
    pointers = (grad_out.data_ptr(), grad_x.data_ptr())
    _native.launch(_native.core(_NAME), "backward", grad_x, code, *pointers, shape, bins)
    return grad_x


def _shape(pixels: torch.Tensor, channels_last: bool) -> Any:
    """`pixels` is the map before the pooling."""
    return _native.core(_NAME).Shape(
        batch=pixels.shape[0],
        channels=pixels.shape[1],
        in_h=pixels.shape[2],
        in_w=pixels.shape[3],
        channels_last=channels_last,
    )
