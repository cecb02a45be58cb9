"""The confusion matrix of a model over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy
import torch
import torch.nn.functional as F

from ..data import IGNORE, Split
from ..models import SegmentationModel
from ..nn.logits import with_background
from ..ops.upsample_confusion_matrix import upsample_confusion_matrix
from .processes import Processes

Progress = Callable[[int, int], None]


@torch.no_grad()
def evaluate(
    model: SegmentationModel,
    split: Split,
    *,
    working_size: int | None = None,
    batch_size: int = 4,
    void_row: bool = False,
    processes: Processes | None = None,
    progress: Progress | None = None,
    bf16: bool = False,
) -> torch.Tensor:
    """Counts the pixels of a split by truth and prediction, at the size of the label maps.

    Images are brought to the working size as `model.segment` does, and the low-resolution logits
    are compared with the labels in one pass, without logits or labels at full size in memory. The
    counts are those of `segment` on every image, up to rounding where two logits tie.

    Args:
        model: left in eval mode.
        working_size: longer side, in pixels, at which the network sees an image; by default the
            model's.
        batch_size: images that go through the network together where their sizes agree.
        void_row: whether the pixels that are ignored are counted too, in a row of their own.
        processes: each evaluates a share of the images; the counts are summed over all.
        progress: called with the number of images done and their total, of this process.

    Returns:
        Counts int64 [C, C], or [C + 1, C] with `void_row`, on the CPU.
    """
    processes = processes or Processes()
    model.eval()
    device = next(model.parameters()).device
    classes = len(split.labelling.classes)
    matrix = torch.zeros(classes + void_row, classes, dtype=torch.int64)
    mine = range(processes.rank, len(split), processes.count)
    done = 0
    for images, labels in _groups(split, mine, batch_size):
        pixels = _at_working_size(model, images, working_size)
        target = torch.from_numpy(numpy.stack(labels)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = with_background(model.coarse_logits(model.preprocess(pixels)))
        matrix[:classes] += _count(model, logits, target)
        if void_row:
            # As if void were class 0 and nothing else counted: row 0 is what void was taken for.
            void = torch.where(target == IGNORE, 0, IGNORE).to(torch.uint8)
            matrix[classes] += _count(model, logits, void)[0]
        done += len(images)
        if progress is not None:
            progress(done, len(mine))
    return processes.sum(matrix)


def _count(model: SegmentationModel, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return upsample_confusion_matrix(
        logits, target, ignore_index=IGNORE, align_corners=model.align_corners
    ).cpu()


def _groups(
    split: Split, indices: Sequence[int], batch_size: int
) -> Iterator[tuple[list[numpy.ndarray], list[numpy.ndarray]]]:
    """Neighbouring images of the same size, at most batch_size together."""
    images: list[numpy.ndarray] = []
    labels: list[numpy.ndarray] = []
    for index in indices:
        image, label = split.load(index)
        if images and (len(images) == batch_size or image.shape != images[0].shape):
            yield images, labels
            images, labels = [], []
        images.append(image)
        labels.append(label)
    if images:
        yield images, labels


def _at_working_size(
    model: SegmentationModel, images: list[numpy.ndarray], working_size: int | None
) -> torch.Tensor:
    """Images uint8 [N, h, w, bands], resized on the CPU as `segment` does."""
    pixels = torch.from_numpy(numpy.stack(images))
    size = model.input_size(pixels.shape[1], pixels.shape[2], working_size)
    if size == (pixels.shape[1], pixels.shape[2]):
        return pixels
    planes = F.interpolate(pixels.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True)
    return planes.permute(0, 2, 3, 1)
