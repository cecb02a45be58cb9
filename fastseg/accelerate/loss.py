"""The loss of an accelerated model's outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

from ..nn.altered import is_run_as_written
from ..nn.logits import with_background
from ..nn.losses import CombinedLoss, SumsLoss
from ..ops.upsample_cross_entropy import upsample_cross_entropy


@dataclasses.dataclass(frozen=True)
class Loss:
    """Cross-entropy of logits resized to the target, which are never built at its size.

    For outputs at the target's resolution it is F.cross_entropy; for low-resolution ones the
    cross-entropy of what the model would have made of them.

    Attributes:
        align_corners: how the model resizes its logits.
        ignore_index: target value of pixels that do not count.
        auxiliary_weight: share of the second output "aux", where the model has one.
    """

    align_corners: bool = False
    ignore_index: int = 255
    auxiliary_weight: float = 0.5

    def __call__(
        self,
        outputs: Any,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        criterion: CombinedLoss | SumsLoss | None = None,
    ) -> torch.Tensor:
        """The loss.

        Args:
            outputs: what the model's forward returned: logits [N, C, h, w], torchvision's dict,
                smp's pair of masks and labels (its labels are ignored), or an output of
                transformers. Logits of one class are trained against its absence, 0 and 1.
            target: classes [N, H, W].
            weight: of each class [C].
            label_smoothing: in [0, 1].
            criterion: a loss of fastseg.nn instead of the cross-entropy, with its own options (and
                ignore_index), such as CombinedLoss(ce=1, dice=1, ignore_index=255).

        Returns:
            Scalar: the mean over the pixels that count.
        """

        def loss_of(logits: torch.Tensor) -> torch.Tensor:
            if criterion is not None:
                plain = criterion.mode != "multiclass"
                given = logits if plain else with_background(logits)
                return criterion(given, target, align_corners=self.align_corners)
            return upsample_cross_entropy(
                with_background(logits),
                target,
                weight,
                self.ignore_index,
                label_smoothing=label_smoothing,
                align_corners=self.align_corners,
            )

        loss = loss_of(logits_of(outputs))
        if isinstance(outputs, Mapping) and "aux" in outputs:
            loss = loss + self.auxiliary_weight * loss_of(outputs["aux"])
        return loss


def cross_entropy_as_torch(
    logits: torch.Tensor, target: torch.Tensor, size: tuple[int, int], ignore_index: int
) -> torch.Tensor:
    """F.cross_entropy(F.interpolate(logits, size, mode="bilinear"), target), fused if possible.

    It replaces another library's loss, so it accepts the same targets and raises the same kinds of
    errors: targets that only one of our op and PyTorch takes go to PyTorch.
    """
    alike = target.dtype is torch.int64 and target.device == logits.device
    if alike and tuple(target.shape) == (logits.shape[0], *size) and not is_run_as_written():
        try:
            return upsample_cross_entropy(logits, target, ignore_index=ignore_index)
        except ValueError:  # a class out of range
            pass
    full = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return F.cross_entropy(full, target, ignore_index=ignore_index)


def logits_of(outputs: Any) -> torch.Tensor:
    """Finds the logits in a model's output.

    Raises:
        TypeError: the output holds none.
    """
    found: Any = outputs
    if isinstance(outputs, Mapping):  # outputs of transformers are mappings too
        found = outputs.get("logits", outputs.get("out"))
    elif isinstance(outputs, tuple) and outputs:
        found = outputs[0]
    if not isinstance(found, torch.Tensor) or found.dim() != 4:
        raise TypeError(
            f"outputs is a {type(outputs).__name__}, expected logits [N, C, H, W], a dict that "
            'holds them as "out" or "logits", or a tuple that begins with them'
        )
    return found
