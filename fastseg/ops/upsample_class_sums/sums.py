"""What upsample_class_sums can sum: names, the order of csrc/upsample_class_sums, derivatives."""

from __future__ import annotations

import torch

# The order is the contract with csrc/upsample_class_sums/upsample_class_sums.h.
NAMES = (
    "probability",
    "overlap",
    "target",
    "count",
    "square",
    "loss",
    "negative_loss",
    "every_loss",
    "focal",
    "negative_focal",
    "focal_weight",
    "negative_focal_weight",
    "minimum",
    "negative_entropy",
    "negative_every_loss",
)
ONLY_SIGMOID = {
    "negative_loss",
    "negative_every_loss",
    "negative_focal",
    "negative_focal_weight",
    "minimum",
}
ONLY_SOFTMAX = {"negative_entropy"}
ONLY_SHARES = {"negative_entropy"}  # no sum of labels
ONLY_LABELS = {"focal", "focal_weight"}  # with softmax


def modulation(
    t: torch.Tensor, rest: torch.Tensor, gamma: float, reduced_threshold: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight w(t) = (1 - t)^gamma of the focal loss and its derivative; rest = 1 - t.

    With a threshold r > 0: ((1 - t) / r)^gamma, and 1 where t < r.
    """
    scale = reduced_threshold**-gamma if reduced_threshold > 0.0 else 1.0
    weight = rest.pow(gamma) * scale
    slope = -gamma * rest.pow(gamma - 1.0) * scale if gamma != 0.0 else torch.zeros_like(rest)
    if reduced_threshold > 0.0:
        below = t < reduced_threshold
        weight, slope = weight.masked_fill(below, 1.0), slope.masked_fill(below, 0.0)
    return weight, slope
