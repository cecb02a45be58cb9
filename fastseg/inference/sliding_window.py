"""Overlapping crops, averaged where they overlap: images larger than the training crop."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from ..models.base import SegmentationModel
from .scores import labels_of, pixel_logits, probabilities

Size = int | tuple[int, int]


@dataclasses.dataclass(frozen=True)
class SlidingWindow:
    """How an image is cut into crops and what is averaged.

    Attributes:
        crop: height and width of a crop, or the side of a square one.
        stride: between neighbouring crops, given like `crop`; by default two thirds of the crop,
            rounded up. The last crop of a row or column is moved inside the image.
        average: "logits": mean of the crops' logits; an image smaller than the crop is one smaller
            crop (mmsegmentation's rule). "probabilities": mean of their softmax; an image smaller
            than the crop is first padded with zeros, the mean colour, on both sides (semseg's).
        flip: with "probabilities": each crop is also seen mirrored, and the two are averaged.
        batch_size: crops per call of the model.

    Raises:
        ValueError: a size below 1, a stride beyond the crop (pixels would be left out), an unknown
            average, or flip with logits.
    """

    crop: Size
    stride: Size | None = None
    average: Literal["logits", "probabilities"] = "logits"
    flip: bool = False
    batch_size: int = 4

    def __post_init__(self) -> None:
        if min(self.crop_size) < 1:
            raise ValueError(f"crop is {self.crop}, expected sides of at least 1")
        for stride, crop in zip(self.strides, self.crop_size, strict=True):
            if not 1 <= stride <= crop:
                raise ValueError(f"stride is {self.stride}, expected 1 to the crop's {self.crop}")
        if self.average not in ("logits", "probabilities"):
            raise ValueError(
                f"average is {self.average!r}, allowed are 'logits' and 'probabilities'"
            )
        if self.flip and self.average == "logits":
            raise ValueError("flip is True, which needs average='probabilities'")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected at least 1")

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of a crop."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    @property
    def strides(self) -> tuple[int, int]:
        """Vertical and horizontal stride."""
        if self.stride is None:
            height, width = self.crop_size
            return -(-2 * height // 3), -(-2 * width // 3)
        return (self.stride, self.stride) if isinstance(self.stride, int) else self.stride


def window_starts(length: int, crop: int, stride: int) -> list[int]:
    """Returns the first pixel of each crop along one side; the last crop is moved inside."""
    count = -(-max(length - crop, 0) // stride) + 1
    return [max(min(i * stride, length - crop), 0) for i in range(count)]


@torch.no_grad()
def sliding_window_scores(
    model: SegmentationModel, x: torch.Tensor, window: SlidingWindow
) -> torch.Tensor:
    """Averages the logits or probabilities of the crops that cover each pixel.

    Crops are added in place, so memory holds the result, one batch of crops and the image.

    Args:
        model: in eval mode.
        x: input map [N, C, H, W].
        window: crops and average.

    Returns:
        Logits or probabilities [N, classes, H, W], as `window.average` says.

    Raises:
        ValueError: x is no such map, or the model's logits do not belong to single pixels.
    """
    if x.dim() != 4 or min(x.shape) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected a non-empty [N, C, H, W]")
    as_probabilities = window.average == "probabilities"
    height, width = x.shape[2:]
    top = left = 0
    if as_probabilities:
        missing_h = max(window.crop_size[0] - height, 0)
        missing_w = max(window.crop_size[1] - width, 0)
        top, left = missing_h // 2, missing_w // 2
        x = F.pad(x, (left, missing_w - left, top, missing_h - top))
    full_h, full_w = x.shape[2:]
    crop_h, crop_w = min(window.crop_size[0], full_h), min(window.crop_size[1], full_w)
    rows = window_starts(full_h, crop_h, window.strides[0])
    columns = window_starts(full_w, crop_w, window.strides[1])
    total: torch.Tensor | None = None
    for places in _batches([(y, z) for y in rows for z in columns], window, x.shape[0]):
        crops = torch.cat([x[:, :, y : y + crop_h, z : z + crop_w] for y, z in places])
        scores = pixel_logits(model, crops)
        if as_probabilities:
            scores = probabilities(scores)
            if window.flip:
                mirrored = probabilities(pixel_logits(model, crops.flip(3)))
                scores = (scores + mirrored.flip(3)) / 2
        if total is None:
            total = scores.new_zeros((x.shape[0], scores.shape[1], full_h, full_w))
        for (y, z), part in zip(places, scores.split(x.shape[0]), strict=True):
            total[:, :, y : y + crop_h, z : z + crop_w] += part
    assert total is not None
    # The number of crops that cover a pixel is the product over its row and its column.
    total /= _seen(rows, crop_h, full_h, total)[:, None]
    total /= _seen(columns, crop_w, full_w, total)
    return total[:, :, top : top + height, left : left + width]


def predict_sliding_window(
    model: SegmentationModel,
    x: torch.Tensor,
    window: SlidingWindow,
    size: tuple[int, int] | None = None,
    threshold: float = 0.5,
) -> torch.Tensor:
    """Labels every pixel from the averaged crops, resizing to `size` in the same pass.

    Args:
        model: in eval mode.
        x: input map [N, C, H, W], for example a resized photograph.
        window: crops and average.
        size: of the labels; by default that of x.
        threshold: probability above which the only class of a binary model is 1.

    Returns:
        Labels [N, *size], uint8 up to 256 classes, else int32.

    Raises:
        ValueError: as `sliding_window_scores`.
    """
    scores = sliding_window_scores(model, x, window)
    if scores.shape[1] == 1 and window.average == "logits":
        scores = scores.sigmoid()
    height, width = x.shape[2:]
    return labels_of(scores, size or (height, width), model.align_corners, threshold)


def _batches(
    places: list[tuple[int, int]], window: SlidingWindow, images: int
) -> Iterator[list[tuple[int, int]]]:
    """Groups the crops into batches of batch_size, with at least one crop per image."""
    count = max(1, window.batch_size // images)
    for i in range(0, len(places), count):
        yield places[i : i + count]


def _seen(starts: list[int], crop: int, length: int, like: torch.Tensor) -> torch.Tensor:
    """Counts the crops that cover each pixel along one side."""
    count = like.new_zeros(length)
    for start in starts:
        count[start : start + crop] += 1
    return count
