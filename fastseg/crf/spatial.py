"""Lattices of pixel positions: they do not depend on the image and are built once."""

from __future__ import annotations

import functools

import torch

from .._streams import in_use
from ..backends import Backend, forced_backend
from ..ops.permutohedral_filter import Lattice
from .features import positions

# Larger lattices are not cached: the cache holds at most 4 lattices of 32 bytes a pixel.
_MOST_PIXELS = 1 << 22


def position_lattice(
    height: int, width: int, scale: tuple[float, float], *, like: torch.Tensor
) -> Lattice:
    """The lattice of the positions of an image's pixels, for every image of that size.

    Args:
        height, width: of the image.
        scale: width of columns and rows, in pixels.
        like: gives dtype and device.
    """
    build = _cached if height * width <= _MOST_PIXELS else _cached.__wrapped__
    lattice = build(height, width, *scale, like.dtype, like.device, forced_backend())
    in_use(*lattice.device_tensors())
    return lattice


@functools.lru_cache(maxsize=4)
def _cached(
    height: int,
    width: int,
    scale_x: float,
    scale_y: float,
    dtype: torch.dtype,
    device: torch.device,
    backend: Backend | None,
) -> Lattice:
    like = torch.empty(0, dtype=dtype, device=device)
    with torch.inference_mode(False), torch.no_grad():  # it outlives an inference_mode() block
        scale = torch.tensor([scale_x, scale_y], dtype=dtype, device=device)
        if like.device.type == "cpu" and dtype is torch.float32:
            lattice = Lattice.of_image(torch.empty(height, width, 0, dtype=torch.uint8), scale)
        else:
            lattice = Lattice(positions(height, width, scale, like=like))
        lattice.scales("symmetric")
    if like.is_cuda:
        torch.cuda.current_stream(device).synchronize()  # it is there for every stream
    return lattice
