"""The sums of upsampled logits in PyTorch's own functions: the peer of tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .sums import modulation


def peer(
    logits: torch.Tensor,
    target: torch.Tensor,
    sums: Sequence[str] = ("probability", "overlap", "target"),
    activation: str = "softmax",
    size: tuple[int, int] | None = None,
    ignore_index: int = -100,
    pixel_weight: torch.Tensor | None = None,
    gamma: float = 2.0,
    reduced_threshold: float = 0.0,
    align_corners: bool = False,
) -> torch.Tensor:
    """`upsample_class_sums`, with the upsampled logits in memory."""
    full = target.shape[-2:] if size is None else size

    def resized(x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, full, mode="bilinear", align_corners=align_corners)

    z = resized(logits)
    counted = torch.ones_like(z, dtype=torch.bool)
    if size is not None:
        y = resized(target).softmax(1)
    elif target.dim() == 4:
        counted = (target != ignore_index) | (activation == "softmax")
        y = target.to(z.dtype) * counted
    else:
        counted = (target != ignore_index)[:, None].expand_as(z)
        binary = activation == "sigmoid" and z.shape[1] == 1
        one_hot = F.one_hot(target.long().where(counted[:, 0], 0), 2 if binary else z.shape[1])
        y = one_hot.movedim(3, 1)[:, binary * 1 :].to(z.dtype) * counted
    softmax = activation == "softmax"
    log_p = z.log_softmax(1) if softmax else F.logsigmoid(z)
    p = z.softmax(1) if softmax else z.sigmoid()
    log_q = torch.zeros_like(z) if softmax else F.logsigmoid(-z)
    v = counted.to(z.dtype)
    if pixel_weight is not None:
        v = v * pixel_weight[:, None]
    own = modulation(p, 1 - p, gamma, reduced_threshold)[0]
    other = modulation(1 - p, p, gamma, reduced_threshold)[0]
    terms = {
        "probability": p,
        "overlap": p * y,
        "target": y,
        "count": torch.ones_like(p),
        "square": p * p,
        "loss": -y * log_p,
        "negative_loss": -(1 - y) * log_q,
        "every_loss": -log_p,
        "focal": -y * own * log_p,
        "negative_focal": -(1 - y) * other * log_q,
        "focal_weight": y * own,
        "negative_focal_weight": (1 - y) * other,
        "minimum": torch.minimum(p, y),
        "negative_every_loss": -log_q,
        "negative_entropy": torch.special.xlogy(y, y),
    }
    return torch.stack([(terms[name] * v).sum((2, 3)) for name in sums], 1).double()
