"""Whole models of a library: their logits, output size and loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .loss import Loss
from .swap import Swap


class Model(Swap):
    """Whole models of one library that are called and trained alike."""

    def coarse(self, model: Any, x: torch.Tensor) -> torch.Tensor:
        """Logits [N, C, h, w] at the network's own resolution, of images [N, C, H, W]."""
        raise NotImplementedError

    def loss(self, model: Any) -> Loss:
        """The loss that fits the model."""
        return Loss()

    def size(self, model: Any, x: torch.Tensor, logits: torch.Tensor) -> tuple[int, int]:
        """Height and width of the model's output for images x with these coarse logits."""
        return x.shape[2], x.shape[3]

    def switch(self, model: Any) -> nn.Module | None:
        """The submodule whose forward can leave the logits at low resolution.

        None where they are at low resolution anyway.
        """
        return model

    def no_logits(self, model: Any) -> str | None:
        """Why the output cannot be the low-resolution logits, or None."""
        return None

    def threshold(self, model: Any) -> float | None:
        """The value above which a single output means the class; None if unknown."""
        return 0.0

    def no_labels(self, model: Any) -> str | None:
        """Why the argmax of the coarse logits may differ from that of the output, or None."""
        return None
