"""The blocks of UNet's decoder, without the resized and the concatenated map."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.upsample_bilinear import upsample_bilinear
from .altered import why_not_short
from .attention import Attention
from .chain import Chain
from .norm import NormName, make_norm
from .resized import begins_with, run_resized

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "area", "nearest-exact")
# Those that a convolution can be multiplied before.
_LINEAR_HERE = ("nearest", "bilinear")


def conv_norm_relu(
    in_channels: int, out_channels: int, use_norm: NormName = True, kernel_size: int = 3
) -> Chain:
    """Convolution that keeps the size (with a bias if no norm follows), norm, ReLU.

    Args:
        use_norm: as in `make_norm`.
        kernel_size: odd.
    """
    norm = make_norm(use_norm, out_channels)
    no_norm = isinstance(norm, nn.Identity)
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=no_norm
    )
    return Chain(convolution, norm, nn.ReLU(inplace=True))


class UnetBlock(nn.Module):
    """Resizes a map to its skip connection, concatenates both, and convolves twice.

    The same names of tensors and values as the block of segmentation_models_pytorch. Where nothing
    is altered and the skip connection needs no attention, the first convolution runs at the
    resolution of each map.

    Args:
        in_channels: of the coarser map.
        skip_channels: of the skip connection, 0 for none.
        out_channels: of both convolutions.
        use_norm: as in `make_norm`.
        attention: None or "scse", before the first and after the second convolution; the first is
            for blocks with a skip connection.
        interpolation: one of INTERPOLATIONS; bilinear and bicubic without align_corners.

    Raises:
        ValueError: no such norm, attention or interpolation.

    Source: Ronneberger et al., U-Net, 2015; Roy et al., Concurrent Spatial and Channel Squeeze &
    Excitation, 2018.
    """

    def __init__(
        self,
        in_channels: int,
        skip_channels: int,
        out_channels: int,
        use_norm: NormName = True,
        attention: str | None = None,
        interpolation: str = "nearest",
    ) -> None:
        super().__init__()
        if interpolation not in INTERPOLATIONS:
            raise ValueError(
                f"interpolation is {interpolation!r}, allowed are {', '.join(INTERPOLATIONS)}"
            )
        self.interpolation_mode = interpolation
        channels = in_channels + skip_channels
        self.conv1 = conv_norm_relu(channels, out_channels, use_norm)
        self.attention1 = Attention(attention, channels)
        if skip_channels == 0:
            _keep_untrained(self.attention1)
        self.conv2 = conv_norm_relu(out_channels, out_channels, use_norm)
        self.attention2 = Attention(attention, out_channels)

    def forward(
        self,
        feature_map: torch.Tensor,
        target_height: int,
        target_width: int,
        skip_connection: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Map [N, in_channels, h, w] and skip connection -> map [N, out_channels, *target]."""
        size = (target_height, target_width)
        if why_not_short(self, unet_skips, unet_unfit) is None:
            return run_unet_block(self, feature_map, size, skip_connection)
        x = _joined(self, feature_map, size, skip_connection)
        return self.attention2(self.conv2(self.conv1(x)))


def _keep_untrained(module: nn.Module) -> None:
    """Turns the parameters inside into buffers.

    They are in checkpoints, but nothing reads them: as parameters they would have no gradient,
    which DistributedDataParallel refuses.
    """
    for layer in module.modules():
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                delattr(layer, name)
                layer.register_buffer(name, parameter.detach())


def run_unet_block(
    block: Any, x: torch.Tensor, size: tuple[int, int], skip: torch.Tensor | None
) -> torch.Tensor:
    """Runs a block, ours or smp's, on a map and its skip; `unet_unfit` of the block is None.

    Args:
        block: with conv1, conv2, attention1, attention2 and interpolation_mode.
        x: map [N, C, h, w].
        size: height and width of the result.
        skip: map [N, C_skip, *size], or None.
    """
    if skip is not None and type(block.attention1.attention) is not nn.Identity:
        y = block.conv1(_joined(block, x, size, skip))
    else:
        parts = [x] if skip is None else [x, skip]
        y = run_resized(parts, block.conv1, size, block.interpolation_mode)
    return block.attention2(block.conv2(y))


def _joined(
    block: Any, x: torch.Tensor, size: tuple[int, int], skip: torch.Tensor | None
) -> torch.Tensor:
    """The resized map, concatenated with the skip connection and weighed by the attention."""
    if block.interpolation_mode == "bilinear":
        x = upsample_bilinear(x, size)
    else:
        x = F.interpolate(x, size, mode=block.interpolation_mode)
    return x if skip is None else block.attention1(torch.cat([x, skip], 1))


def unet_skips(block: Any) -> Iterable[nn.Module]:
    """The modules that `run_unet_block` does not call."""
    if type(block.attention1.attention) is not nn.Identity:
        return block.conv1, block.conv1[0]
    return block.conv1, block.conv1[0], block.attention1, block.attention1.attention


def unet_unfit(block: Any) -> str | None:
    """Why `run_unet_block` cannot run a block, or None."""
    if block.interpolation_mode not in _LINEAR_HERE:
        return f"interpolation_mode is {block.interpolation_mode!r}"
    return begins_with(block.conv1)
