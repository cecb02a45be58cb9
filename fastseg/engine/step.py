"""From uint8 views to the loss, as one module: what data-parallel training wraps."""

from __future__ import annotations

import torch
from torch import nn

from ..data import IGNORE, Batch
from ..models import SegmentationModel
from ..models.base import of_bands
from ..nn.losses import CombinedLoss
from ..nn.target_watch import trust_targets


class TrainingStep(nn.Module):
    """Colour changes, normalisation, network and loss.

    Args:
        model: that is trained.
        class_weights: of the classes in the loss [C], or None.
        label_smoothing: as in F.cross_entropy.
        criterion: a loss instead of the cross-entropy, with its own weights and smoothing.
    """

    def __init__(
        self,
        model: SegmentationModel,
        class_weights: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        criterion: CombinedLoss | None = None,
    ) -> None:
        super().__init__()
        self.class_weights: torch.Tensor | None
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.model = model
        trust_targets(model)  # views may well show one class; the data set was looked through
        self.label_smoothing = label_smoothing
        self.criterion = criterion
        self.register_buffer("class_weights", class_weights, persistent=False)
        bands = model.in_channels
        for name in ("mean", "std"):
            values = torch.tensor(of_bands(name, getattr(model, name), bands))
            self.register_buffer(name, 255.0 * values, persistent=False)

    def forward(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        colors: torch.Tensor,
        share: torch.Tensor | float = 1.0,
    ) -> torch.Tensor:
        """The mean loss of the pixels of a batch, times `share`.

        Args:
            images: views uint8 [N, h, w, C]. labels: uint8 [N, h, w], 255 where void.
            colors: colour changes [N, C, C + 1], see Augmentation.
            share: of this batch in the loss that is to be differentiated.
        """
        # In bfloat16 the colour change would round the pixels to 8 bits.
        with torch.autocast(images.device.type, enabled=False):
            x = self.inputs(images, colors)
        loss = self.model.loss(
            x,
            labels,
            weight=self.class_weights,
            ignore_index=IGNORE,
            label_smoothing=self.label_smoothing,
            criterion=self.criterion,
        )
        return loss * share

    def inputs(self, images: torch.Tensor, colors: torch.Tensor) -> torch.Tensor:
        """The network's input [N, C, h, w], channels_last, from views and colour changes."""
        count, height, width, bands = images.shape
        pixels = images.view(count, height * width, bands).float()
        matrix, offset = colors[:, :, :bands].transpose(1, 2), colors[:, None, :, bands]
        pixels = torch.baddbmm(offset, pixels, matrix)
        pixels = pixels.clamp_(0.0, 255.0).sub_(self.mean).div_(self.std)
        x = pixels.view(count, height, width, bands).permute(0, 3, 1, 2)
        return x.to(next(self.model.parameters()).dtype)


def weight_of(labels: torch.Tensor, class_weights: torch.Tensor | None) -> float:
    """The divisor of the mean loss: the summed class weights of the pixels that count."""
    counts = torch.bincount(labels.reshape(-1), minlength=IGNORE + 1)[:IGNORE].double()
    if class_weights is None:
        return float(counts.sum())
    return float((counts[: class_weights.numel()] * class_weights.double()).sum())


def parts(batch: Batch, count: int) -> list[Batch]:
    """A batch in `count` equal parts."""
    split = (t.chunk(count) for t in (batch.images, batch.labels, batch.colors))
    return [Batch(*tensors) for tensors in zip(*split, strict=True)]
