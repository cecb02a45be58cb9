"""Models that predict a mask and a class for each query, instead of logits per pixel."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..ops.mask_argmax import mask_argmax


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
        output = model(images, return_dict=True)
        masks = getattr(output, self.masks)
        probabilities = getattr(output, self.logits).softmax(2)[..., :-1]
        if target_sizes is None:
            return mask_argmax(masks, probabilities, (images.shape[2], images.shape[3]))
        return [
            mask_argmax(masks[i : i + 1], probabilities[i : i + 1], self.size, out_size=size)[0]
            for i, size in enumerate(target_sizes)
        ]
