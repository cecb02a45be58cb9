"""Positions and colours of an image as features of its pixels."""

from __future__ import annotations

import torch

from ... import _native


def image_features(image: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
    """Column, row and channels of the pixels of an image [H, W, C] by `widths`: [2 + C, H * W]."""
    height, width, channels = image.shape
    features = _native.scratch(2 + channels, height, width)
    features[0] = torch.arange(width)
    features[1] = torch.arange(height)[:, None]
    features[2:] = image.permute(2, 0, 1)
    return features.flatten(1).div_(widths[:, None])
