"""Sums of losses, with two passes over the pixels for all of them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from .dice import DiceLoss, JaccardLoss, TverskyLoss
from .pointwise import BCEWithLogitsLoss, FocalLoss, UpsampleCrossEntropy
from .sums import SumsLoss, evaluate

_REGIONS: dict[str, type[SumsLoss]] = {
    "dice": DiceLoss,
    "jaccard": JaccardLoss,
    "tversky": TverskyLoss,
    "focal": FocalLoss,
}
NAMES = ("ce", "bce", *_REGIONS)


class CombinedLoss(nn.Module):
    """A weighted sum of losses of bilinearly upsampled logits, computed together.

    CombinedLoss(ce=1, dice=1) takes one pass over the pixels forward and one backward, as each of
    the losses alone does. Losses that differ in activation, ignore_index or gamma are computed in
    groups.

    Args:
        mode: of the losses that are given by weight: "binary", "multiclass" or "multilabel".
        ignore_index: of the losses that are given by weight.
        align_corners, process_group: of the losses that are given by weight.
        **losses: name=weight for "ce", "bce", "dice", "jaccard", "tversky" and "focal" with their
            defaults, or any name=(weight, loss) with a loss of this package.

    Example:
        CombinedLoss(ce=1.0, dice=(0.5, DiceLoss(smooth=1.0, ignore_index=255)), ignore_index=255)
    """

    def __init__(
        self,
        mode: str = "multiclass",
        ignore_index: int | None = None,
        align_corners: bool = False,
        process_group: Any = None,
        **losses: float | tuple[float, SumsLoss],
    ) -> None:
        super().__init__()
        if not losses:
            raise ValueError("CombinedLoss without a loss: give name=weight, such as ce=1")
        options = {"align_corners": align_corners, "process_group": process_group}
        self.weights: dict[str, float] = {}
        self.losses = nn.ModuleDict()
        for name, given in losses.items():
            if isinstance(given, tuple):
                weight, loss = given
                if not isinstance(loss, SumsLoss):
                    raise TypeError(f"{name} is a {type(loss).__name__}, expected a SumsLoss")
            else:
                weight, loss = given, named_loss(name, mode, ignore_index, **options)
            self.weights[name] = float(weight)
            self.losses[name] = loss

    def forward(
        self,
        logits: torch.Tensor,
        target: torch.Tensor,
        pixel_weight: torch.Tensor | None = None,
        *,
        align_corners: bool | None = None,
    ) -> torch.Tensor:
        """The weighted sum, a float32 scalar (float64 for float64 logits).

        Args:
            logits: map [N, C, h, w].
            target: as the losses take it.
            pixel_weight: weight of each pixel [N, H, W], or None.
            align_corners: instead of the losses' own.
        """
        terms: list[tuple[float, Any]]
        terms = [(self.weights[name], loss) for name, loss in self.losses.items()]
        if len(terms) == 1:
            weight, loss = terms[0]
            return loss(logits, target, pixel_weight, align_corners=align_corners) * weight
        return evaluate(terms, logits, target, pixel_weight, align_corners)

    @property
    def mode(self) -> str:
        """The mode of the losses."""
        return str(next(iter(self.losses.values())).mode)

    def extra_repr(self) -> str:
        """The weights."""
        return ", ".join(f"{name}={weight:g}" for name, weight in self.weights.items())


def named_loss(name: str, mode: str, ignore_index: int | None, **options: Any) -> SumsLoss:
    """Makes a loss from its name in CombinedLoss and `fastseg train --loss`."""
    if name == "ce":
        if mode != "multiclass":
            raise ValueError(f"loss 'ce' needs mode 'multiclass', not {mode!r}: use 'bce'")
        return UpsampleCrossEntropy(
            ignore_index=-100 if ignore_index is None else ignore_index, **options
        )
    if name == "bce":
        return BCEWithLogitsLoss(mode, ignore_index, **options)
    if name not in _REGIONS:
        raise ValueError(f"there is no loss {name!r}, allowed are {', '.join(NAMES)}")
    return _REGIONS[name](mode, ignore_index=ignore_index, **options)


def parse_loss(
    text: str,
    mode: str = "multiclass",
    ignore_index: int | None = None,
    class_weight: torch.Tensor | None = None,
    label_smoothing: float = 0.0,
    **options: Any,
) -> CombinedLoss:
    """Makes a weighted sum of losses from a text such as "ce+dice" or "ce+0.5*focal".

    Args:
        text: names that CombinedLoss knows, joined by "+"; "2*" before a name is its weight.
        mode, ignore_index: of all the losses.
        class_weight, label_smoothing: of "ce" alone.
        **options: align_corners and process_group, of all the losses.

    Returns:
        The loss.

    Raises:
        ValueError: an unknown name or a weight that is no number.
    """
    weights: dict[str, Any] = {}
    for part in text.replace(" ", "").split("+"):
        match = re.fullmatch(r"(?:(\d+(?:\.\d*)?|\.\d+)\*)?([a-z_]+)", part)
        if match is None or match[2] not in NAMES:
            raise ValueError(
                f"loss is {text!r}, expected names joined by '+', such as 'ce+dice' or "
                f"'ce+0.5*dice'; the names are {', '.join(NAMES)}"
            )
        if match[2] in weights:
            raise ValueError(f"loss is {text!r}: {match[2]} occurs twice")
        weight = float(match[1] or 1.0)
        weights[match[2]] = weight
        if match[2] == "ce" and (class_weight is not None or label_smoothing > 0.0):
            loss = named_loss("ce", mode, ignore_index, **options)
            assert isinstance(loss, UpsampleCrossEntropy)
            loss.weight, loss.label_smoothing = class_weight, label_smoothing
            weights["ce"] = (weight, loss)
    return CombinedLoss(mode, ignore_index, **options, **weights)
