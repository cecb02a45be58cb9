"""Test-time augmentation: the mean over scaled and mirrored views of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..models.base import SegmentationModel
from ..ops.upsample_bilinear import upsample_bilinear
from .scores import pixel_logits, probabilities
from .sliding_window import SlidingWindow, sliding_window_scores


@torch.no_grad()
def augmented_probabilities(
    model: SegmentationModel,
    x: torch.Tensor,
    scales: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
    flip: bool = True,
    window: SlidingWindow | None = None,
    size: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Averages the class probabilities of scaled and mirrored views, at the photograph's size.

    A view is x resized bilinearly, without antialiasing, and perhaps mirrored. Its logits are
    resized to `size` and become probabilities there (mmsegmentation's rule). With a window that
    averages probabilities, the probabilities are resized instead (semseg's rule).

    Views are added in place, so the result and one view are all that is in memory.

    Args:
        model: in eval mode.
        x: input map [N, C, H, W].
        scales: of the views, each above 0.
        flip: whether every scale is also seen mirrored. A window with `flip` mirrors its crops
            instead: leave this False then.
        window: sliding window over each view; without it a view is seen whole.
        size: of the result; by default that of x.

    Returns:
        Probabilities [N, classes, *size], whose `.argmax(1)` gives the labels; the sigmoid of a
        single class.

    Raises:
        ValueError: no scale, a scale that is not positive, or x as in `sliding_window_scores`.
    """
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise ValueError(f"scales is {tuple(scales)}, expected positive numbers, at least one")
    if x.dim() != 4 or min(x.shape) < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected a non-empty [N, C, H, W]")
    height, width = x.shape[2:]
    size = size or (height, width)
    resize_probabilities = window is not None and window.average == "probabilities"
    total: torch.Tensor | None = None
    for scale in scales:
        view_size = max(1, round(height * scale)), max(1, round(width * scale))
        view = x if view_size == (height, width) else upsample_bilinear(x, view_size)
        for mirrored in (False, True) if flip else (False,):
            seen = view.flip(3) if mirrored else view
            if window is None:
                scores = pixel_logits(model, seen)
            else:
                scores = sliding_window_scores(model, seen, window)
            if mirrored:
                scores = scores.flip(3)
            if tuple(scores.shape[2:]) != size:
                # Pixels to pixels: half-pixel centres, unless they are logits of a model trained
                # with aligned corners.
                corners = model.align_corners and not resize_probabilities
                scores = upsample_bilinear(scores, size, align_corners=corners)
            if not resize_probabilities:
                scores = probabilities(scores)
            total = scores if total is None else total.add_(scores)
    assert total is not None
    return total.div_(len(scales) * (2 if flip else 1))
