"""The layout contract: a map comes out in the memory format of the map that went in."""

from __future__ import annotations

import torch

from ._private_torch import are_functorch_transforms_active


def map_format(x: torch.Tensor, *_: object) -> torch.memory_format:
    """channels_last if x [N, C, H, W] has its channels side by side in memory, else contiguous.

    Slices of a channels_last map count as channels_last. Where both formats fit (one channel, or
    one pixel) it is contiguous. Extra arguments are ignored, so that it can serve as
    registry.Function.layout.
    """
    if x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        return torch.channels_last
    return torch.contiguous_format


def in_format(x: torch.Tensor, layout: torch.memory_format) -> torch.Tensor:
    """x.contiguous(memory_format=layout); under torch.func x itself, for vmap has no channels_last
    and no kernel sees the memory of its tensors."""
    if layout is torch.channels_last and are_functorch_transforms_active():
        return x
    return x.contiguous(memory_format=layout)


def empty_map(x: torch.Tensor, channels: int, size: list[int] | torch.Size) -> torch.Tensor:
    """An uninitialised map [N, channels, *size] with the dtype, device and memory format of x."""
    shape = (x.shape[0], channels, size[0], size[1])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=map_format(x))
