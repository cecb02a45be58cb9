"""Models that predict a mask and a class for each query, instead of logits per pixel."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ..ops.mask_argmax import mask_argmax
from .segments import Segments


@dataclasses.dataclass(frozen=True)
class Queries:
    """A kind of whole model whose output has the masks and classes of queries.

    Attributes:
        classes: full names of the model's classes.
        masks: name of the output's mask logits [N, Q, h, w].
        logits: name of its class logits [N, Q, C + 1], "no object" last.
        size: what the library resizes masks to before their sigmoid, whatever is asked for; None
            for their own size.
    """

    classes: tuple[str, ...]
    masks: str
    logits: str
    size: int | None

    def labels(
        self, model: Any, images: torch.Tensor, target_sizes: list[tuple[int, int]] | None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Labels at the size of the images [N, H, W]; or of each at its target size, in the
        library's own order of steps."""
        masks, logits = self._run(model, images)
        probabilities = logits.softmax(2)[..., :-1]
        if target_sizes is None:
            return mask_argmax(masks, probabilities, (images.shape[2], images.shape[3]))
        return [
            mask_argmax(masks[i : i + 1], probabilities[i : i + 1], self.size, out_size=size)[0]
            for i, size in enumerate(target_sizes)
        ]

    def segments(
        self,
        model: Any,
        images: torch.Tensor,
        target_sizes: list[tuple[int, int]] | None,
        find: Callable[..., Segments],
        *options: Any,
    ) -> list[Segments]:
        """What `find` of segments.py makes of each image's masks and class logits."""
        masks, logits = self._run(model, images)
        if self.size is not None:
            size = (self.size, self.size)
            masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
        sizes = [None] * len(masks) if target_sizes is None else target_sizes
        return [find(*image, *options) for image in zip(masks, logits, sizes, strict=True)]

    def _run(self, model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = model(images, return_dict=True)
        return getattr(output, self.masks), getattr(output, self.logits)
