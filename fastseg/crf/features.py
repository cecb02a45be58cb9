"""Features of the pixels of an image: a dense CRF's kernels are Gaussians in that space."""

from __future__ import annotations

import torch

from .. import _native
from .fixed_order import in_units

Width = float | torch.Tensor


def positions(height: int, width: int, scale: Width, *, like: torch.Tensor) -> torch.Tensor:
    """Column and row of every pixel in units of `scale`, [2, H * W]: pydensecrf's order.

    `scale`: one width in pixels, or [2] for columns and rows. dtype and device are those of `like`.
    """
    columns = torch.arange(width, dtype=like.dtype, device=like.device).expand(height, width)
    rows = torch.arange(height, dtype=like.dtype, device=like.device)[:, None].expand(height, width)
    return torch.stack([columns, rows]).flatten(1) / _per_row(scale, 2, like)


def spatial_features(
    batch: int, height: int, width: int, scale: Width, *, like: torch.Tensor
) -> torch.Tensor:
    """Features [N, 2, H * W] of a smoothness kernel: positions alone, the same for every image."""
    return positions(height, width, scale, like=like).expand(batch, 2, height * width)


def bilateral_features(
    images: torch.Tensor, scale: Width, color_scale: Width, *, like: torch.Tensor
) -> torch.Tensor:
    """Features [N, 2 + C, H * W] of an appearance kernel: positions and the values of the image.

    Args:
        images: [N, C, H, W] of any dtype.
        scale: width of the positions in pixels, one or [2].
        color_scale: width of the channels in units of the image, one or [C].
        like: gives dtype and device.
    """
    batch, channels, height, width = images.shape
    widths = _per_row(scale, 2, like), _per_row(color_scale, channels, like)
    inputs = (images, *widths)
    if torch.compiler.is_compiling() or (
        torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
    ):
        colors = in_units(images.to(like.device, like.dtype), widths[1].flatten())
        place = positions(height, width, scale, like=like)
        return torch.cat([place.expand(batch, 2, height * width), colors], 1)
    features = _native.new_scratch(like, batch, 2 + channels, height, width)
    features[:, 0] = torch.arange(width, device=like.device)
    features[:, 1] = torch.arange(height, device=like.device)[:, None]
    features[:, 2:] = images
    return features.flatten(2).div_(torch.cat(widths))


def _per_row(scale: Width, rows: int, like: torch.Tensor) -> torch.Tensor:
    scale = torch.as_tensor(scale, dtype=like.dtype, device=like.device)
    return scale.expand(rows)[:, None]


def axis_features(length: int, scale: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    """Positions along one axis, [length]."""
    index = torch.arange(length, dtype=like.dtype, device=like.device)
    return index / scale.to(like.device, like.dtype)
