"""TensorFlow's mobile DeepLab: a dilated MobileNetV2 and a head without atrous branches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..classes import VOC, ClassSet, as_class_set
from ..layout import in_format, map_format
from ..nn import DilatedConv2d
from ..nn.altered import why_not_short
from ..nn.conv import is_convolution
from ..nn.resized import resizable
from .base import SegmentationModel

# Strides of MobileNetV2's 17 inverted residuals after the stem's 2.
# Source: Sandler et al., MobileNetV2, 2018, table 2.
BLOCK_STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
# Output channels of the blocks at width multiplier 0.5, rounded as TensorFlow does.
HALF_WIDTHS = (8, 12, 12, 16, 16, 16, 32, 32, 32, 32, 48, 48, 48, 80, 80, 80, 160)


class InvertedResidual(nn.Module):
    """1x1 expansion (ReLU6), depthwise 3x3 (ReLU6), linear 1x1 projection; added to x if it fits.

    Batch norms are folded into the convolutions.

    Args:
        expanded: channels of the depthwise convolution; without expansion those of the input.
    """

    def __init__(
        self, in_channels: int, expanded: int, channels: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_channels, expanded, 1) if expanded != in_channels else None
        self.depthwise = DilatedConv2d(
            expanded, expanded, 3, stride, padding=dilation, dilation=dilation, groups=expanded
        )
        self.project = nn.Conv2d(expanded, channels, 1)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, in_channels, H, W] -> [N, channels, ceil(H / stride), ceil(W / stride)]."""
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = F.relu6(self.depthwise(y), inplace=True)
        y = self.project(y)
        return x + y if self.residual else y


class TFDeepLabMobileNetV2(SegmentationModel):
    """DeepLabV3 as TensorFlow's mobile models have it, batch norms folded.

    A MobileNetV2 whose later strides are turned into dilation, then a 1x1 branch and an image
    pooling branch, concatenated and projected. The pooled branch is the same at every position:
    it is computed as a bias per image, never as a map.

    Args:
        classes: names and colours, or only their number.
        in_channels: of the input map.
        stem: channels of the first convolution (3x3, stride 2).
        widths: output channels of the 17 inverted residuals.
        expansion: channels of a depthwise convolution relative to the block's input; the first
            block does not expand.
        head: channels of both branches and of their projection.
        output_stride: input pixels per logit: 8, 16 or 32.

    Inputs whose sides are multiples of output_stride plus 1 have their logits on the corner pixels,
    as in training; others are padded at the bottom and right by repeating the border.

    Source: Chen et al., Rethinking Atrous Convolution, 2017, section 3; tensorflow/models, deeplab.
    """

    align_corners = True
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    size_offset = 1

    def __init__(
        self,
        classes: ClassSet | int = VOC,
        in_channels: int = 3,
        stem: int = 16,
        widths: Sequence[int] = HALF_WIDTHS,
        expansion: int = 6,
        head: int = 256,
        output_stride: int = 8,
    ) -> None:
        super().__init__()
        if len(widths) != len(BLOCK_STRIDES):
            raise ValueError(f"widths has {len(widths)} numbers, expected {len(BLOCK_STRIDES)}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}, allowed are 8, 16 and 32")
        self.classes = as_class_set(classes)
        self.size_step = output_stride
        self.stem = nn.Conv2d(in_channels, stem, 3, stride=2, padding=1)
        self.blocks = _blocks(stem, widths, expansion, output_stride)
        self.image_pooling = nn.Conv2d(widths[-1], head, 1)
        self.aspp0 = nn.Conv2d(widths[-1], head, 1)
        self.concat_projection = nn.Conv2d(2 * head, head, 1)
        self.logits = nn.Conv2d(head, len(self.classes), 1)

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, classes, h, w] at the pixels 0, s, 2s, ... of x [N, in_channels, H, W].

        s is the output stride, h = ceil((H - 1) / s) + 1, and w likewise.
        """
        x = F.relu6(self.stem(self.pad(x)), inplace=True)
        for block in self.blocks:
            x = block(x)
        return self.logits(F.relu(self._project_branches(x), inplace=True))

    def _project_branches(self, x: torch.Tensor) -> torch.Tensor:
        """concat_projection(cat([pooled, aspp0])): the pooled half is one vector per image."""
        pooled = F.relu(self.image_pooling(x.mean((2, 3), keepdim=True)))
        branch = F.relu(self.aspp0(x), inplace=True)
        if why_not_short(self, _skips, _unfit) is not None:
            maps = torch.cat([pooled.expand_as(branch), branch], dim=1)
            return self.concat_projection(in_format(maps, map_format(x)))
        pooled_weight, branch_weight = self.concat_projection.weight.split(pooled.shape[1], dim=1)
        bias = F.conv2d(pooled, pooled_weight, self.concat_projection.bias)
        return F.conv2d(branch, branch_weight) + bias

    def unused_keys(self, names: Iterable[str]) -> list[str]:
        """Names of transformers' tensors that only its classifier of images reads."""
        return [name for name in names if name.startswith("mobilenet_v2.conv_1x1.")]


def _skips(model: Any) -> Iterable[nn.Module]:
    return (model.concat_projection,)


def _unfit(model: Any) -> str | None:
    projection = model.concat_projection
    if not is_convolution(projection) or projection.kernel_size != (1, 1):
        return f"{projection} is no 1x1 convolution"
    return resizable(projection)


def _blocks(
    in_channels: int, widths: Sequence[int], expansion: int, output_stride: int
) -> nn.ModuleList:
    blocks = nn.ModuleList()
    stride, dilation = 2, 1
    for index, (channels, block_stride) in enumerate(zip(widths, BLOCK_STRIDES, strict=True)):
        expanded = in_channels * (expansion if index > 0 else 1)
        # A stride that the output stride leaves no room for becomes dilation of the blocks after.
        step = block_stride if stride * block_stride <= output_stride else 1
        blocks.append(InvertedResidual(in_channels, expanded, channels, step, dilation))
        stride *= step
        dilation *= block_stride // step
        in_channels = channels
    return blocks
