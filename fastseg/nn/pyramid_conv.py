"""A convolution of a map beside its upsampled pyramid of cells, which never builds either."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ..layout import in_format, map_format
from ..ops.upsample_bilinear import upsample_bilinear
from ..ops.upsample_conv2d.autocast import in_autocast_dtype
from ..ops.upsample_conv2d.lowres import convolve_large

__all__ = ["pyramid_conv2d"]


def pyramid_conv2d(
    x: torch.Tensor,
    cells: Sequence[torch.Tensor],
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    input_first: bool = True,
    align_corners: bool = False,
) -> torch.Tensor:
    """The convolution after pyramid pooling (PSPNet, UPerNet), at half of the cost.

    The same function as
    F.conv2d(torch.cat([x, *upsampled cells], 1), weight, bias, padding=k // 2).
    A convolution of a concatenation is the sum of the convolutions of its parts. That of an
    upsampled grid is linear in its few cells: each cell's value times each tap of the kernel,
    spread over the map by the same weights for all channels and images. So the grids cost one small
    matrix product instead of as many multiplications as the map itself. PSPNet's 4096 -> 512 at
    60x60: 136 -> 70 GFLOP.

    Args:
        x: map [N, C, H, W].
        cells: grids [N, C_i, b_i, b_i'], of any number of cells.
        weight: [C_out, C + sum of C_i, k, k] with odd k.
        bias: [C_out].
        input_first: concatenated as [x, cells] (semseg, mmseg, Hugging Face) or [cells, x] (smp).
        align_corners: of the upsampling.

    Returns:
        Map [N, C_out, H, W] in the memory format of x: before norm and activation.

    Raises:
        ValueError: weight that does not fit x and cells.
    """
    channels = [x.shape[1], *[c.shape[1] for c in cells]]
    kernel = weight.shape[-1]
    if weight.dim() != 4 or weight.shape[1:] != (sum(channels), kernel, kernel) or kernel % 2 == 0:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected [C_out, {sum(channels)}, k, k] with "
            f"odd k for a map of {channels[0]} channels and grids of {channels[1:]}"
        )
    layout = map_format(x)
    (x, *cells), weight, bias = in_autocast_dtype([x, *cells], weight, bias)
    order = channels if input_first else [*channels[1:], channels[0]]
    weights = list(weight.split(order, dim=1))
    map_weight = weights.pop(0 if input_first else -1)
    if kernel == 1 and layout is torch.contiguous_format:
        out = F.conv2d(x, map_weight, bias)
    else:
        out = in_format(convolve_large(x, map_weight, bias), layout)
    if not cells:
        return out
    with torch.no_grad():
        spread = torch.cat([_spread(c, kernel, out, align_corners) for c in cells], dim=1)
    # [N, cells and taps, channels of the result], in the order of `spread`'s columns.
    table = torch.cat(
        [
            (c.flatten(2).mT @ w.flatten(2).permute(1, 2, 0).flatten(1)).view(
                c.shape[0], -1, w.shape[0]
            )
            for c, w in zip(cells, weights, strict=True)
        ],
        dim=1,
    ).to(out.dtype)
    if layout is torch.channels_last:
        flat = out.permute(0, 2, 3, 1).flatten(1, 2)
        added = torch.baddbmm(flat, spread.expand(out.shape[0], -1, -1), table)
        return added.unflatten(1, out.shape[2:]).permute(0, 3, 1, 2)
    added = torch.baddbmm(out.flatten(2), table.mT, spread.mT.expand(out.shape[0], -1, -1))
    return added.unflatten(2, out.shape[2:])


def _spread(
    cells: torch.Tensor, kernel: int, out: torch.Tensor, align_corners: bool
) -> torch.Tensor:
    """The weight of each cell and tap in each output pixel: [H * W, cells * taps]."""
    height, width = cells.shape[2:]
    # Weights in full precision, rounded once.
    dtype = torch.promote_types(out.dtype, torch.float32)
    one_hot = torch.eye(height * width, device=out.device, dtype=dtype)
    size = (out.shape[2], out.shape[3])
    maps = upsample_bilinear(one_hot.view(1, -1, height, width), size, align_corners=align_corners)
    # For each tap the map shifted by it, zero outside.
    shifted = F.unfold(maps.transpose(0, 1), kernel, padding=kernel // 2)
    return shifted.flatten(0, 1).T.to(out.dtype)
