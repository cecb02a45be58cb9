"""The definition of upsample_class_sums in plain PyTorch, with its gradient written out."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F

from ..._checks import bad_target, first_bad_target
from ...dtypes import compute_dtype
from ...layout import map_format
from ..upsample_bilinear import reference as bilinear
from .sums import NAMES, modulation


def forward(
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
) -> torch.Tensor:
    """Sums [N, len(sums), C], float64."""
    classes = label_count(logits, target, activation)
    if classes is not None and size is None:
        bad = first_bad_target(target, classes, ignore_index)
        if bad >= 0:
            raise bad_target(target, bad, classes, ignore_index)
    options = (ignore_index, gamma, reduced_threshold, align_corners)
    return sums_of_pixels(logits, target, pixel_weight, sums, activation, size, *options)


def sums_of_pixels(
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
) -> torch.Tensor:
    """forward() of labels that are classes, with PyTorch's derivatives."""
    x = _pixels(logits, target, pixel_weight, activation, size, ignore_index, align_corners)
    own, _ = modulation(x.p, x.q, gamma, reduced_threshold)
    other, _ = modulation(x.q, x.p, gamma, reduced_threshold)
    terms = {
        "probability": lambda: x.p,
        "overlap": lambda: x.p * x.y,
        "target": lambda: x.y,
        "count": lambda: torch.ones_like(x.p),
        "square": lambda: x.p * x.p,
        "loss": lambda: _times(x.y, x.loss),
        "negative_loss": lambda: _times(1 - x.y, x.negative_loss),
        "every_loss": lambda: x.loss,
        "focal": lambda: _times(x.y, own * x.loss),
        "negative_focal": lambda: _times(1 - x.y, other * x.negative_loss),
        "focal_weight": lambda: x.y * own,
        "negative_focal_weight": lambda: (1 - x.y) * other,
        "minimum": lambda: torch.minimum(x.p, x.y),
        "negative_every_loss": lambda: x.negative_loss,
        "negative_entropy": lambda: torch.special.xlogy(x.y, x.y),
    }
    result = [_times(x.v, terms[NAMES[k]]()).sum((2, 3), dtype=torch.float64) for k in sums]
    return torch.stack(result, 1)


def backward(grad_sums: torch.Tensor, logits: torch.Tensor, *rest: Any) -> torch.Tensor:
    """Gradient [N, C, h, w]."""
    gradient = gradient_of_logits(grad_sums, logits, *rest)
    return gradient.contiguous(memory_format=map_format(logits))


def gradient_of_logits(
    grad_sums: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    sums: list[int],
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    gamma: float,
    reduced_threshold: float,
    align_corners: bool,
) -> torch.Tensor:
    """backward() in any memory format, with PyTorch's derivatives."""
    x = _pixels(logits, target, pixel_weight, activation, size, ignore_index, align_corners)
    own, own_slope = modulation(x.p, x.q, gamma, reduced_threshold)
    other, other_slope = modulation(x.q, x.p, gamma, reduced_threshold)
    half = torch.full_like(x.p, 0.5)
    below = torch.where(x.p == x.y, half, (x.p < x.y).to(x.p.dtype))
    # d(term) / d(log p), and the part of d(term) / d(logit) that comes through log(1 - p).
    by_log_p = {
        "probability": lambda: x.p,
        "overlap": lambda: x.p * x.y,
        "square": lambda: 2 * x.p * x.p,
        "loss": lambda: -x.y,
        "every_loss": lambda: -torch.ones_like(x.y),
        "focal": lambda: _times(x.y, x.p * own_slope * x.loss - own),
        "focal_weight": lambda: x.y * x.p * own_slope,
        "minimum": lambda: below * x.p,
    }
    by_logit = {
        "negative_loss": lambda: (1 - x.y) * x.p,
        "negative_every_loss": lambda: x.p,
        "negative_focal": lambda: _times(
            1 - x.y, other * x.p - other_slope * x.p * x.q * x.negative_loss
        ),
        "negative_focal_weight": lambda: (x.y - 1) * other_slope * x.p * x.q,
    }
    shares, gradient = torch.zeros_like(x.p), torch.zeros_like(x.p)
    for place, k in enumerate(sums):
        coefficient = grad_sums[:, place, :, None, None].to(x.p.dtype)
        if NAMES[k] in by_log_p:
            shares = shares + by_log_p[NAMES[k]]() * coefficient
        elif NAMES[k] in by_logit:
            gradient = gradient + by_logit[NAMES[k]]() * coefficient
    if activation == "softmax":
        gradient = gradient + shares - x.p * shares.sum(1, keepdim=True)
    else:
        gradient = gradient + shares * x.q
    gradient = _times(x.v, gradient)
    gradient = bilinear.backward(gradient, list(logits.shape[2:]), align_corners, None, None)
    return gradient.to(logits.dtype)


@dataclasses.dataclass
class _Pixels:
    """Of each pixel and class [N, C, H, W]: probability p and q = 1 - p, target y, weight v."""

    p: torch.Tensor
    q: torch.Tensor
    y: torch.Tensor
    v: torch.Tensor
    loss: torch.Tensor  # -log p
    negative_loss: torch.Tensor  # -log(1 - p)


def _pixels(
    logits: torch.Tensor,
    target: torch.Tensor,
    pixel_weight: torch.Tensor | None,
    activation: str,
    size: list[int] | None,
    ignore_index: int,
    align_corners: bool,
) -> _Pixels:
    dtype, classes = compute_dtype(logits), logits.shape[1]
    full = list(target.shape[-2:]) if size is None else size
    z = bilinear.forward(logits.to(dtype), full, align_corners, None, None)
    counted = torch.ones_like(z, dtype=torch.bool)
    if size is not None:
        teacher = bilinear.forward(target.to(dtype), full, align_corners, None, None)
        y = teacher.softmax(1)
    elif target.dim() == 4:
        y = target.to(dtype)
        if activation == "sigmoid":
            counted = y != ignore_index
    else:
        counted = (target != ignore_index)[:, None].expand_as(z)
        binary = activation == "sigmoid" and classes == 1
        labels = torch.ones(1) if binary else range(classes)
        own = torch.as_tensor(labels, device=z.device).long().view(1, -1, 1, 1)
        y = (target.long()[:, None] == own).to(dtype)
    if activation == "softmax":
        log_p = z.log_softmax(1)
        p = log_p.exp()
        q, loss, negative_loss = 1 - p, -log_p, torch.zeros_like(p)
    else:
        p, q = z.sigmoid(), (-z).sigmoid()
        loss, negative_loss = F.softplus(-z, threshold=1e3), F.softplus(z, threshold=1e3)
    v = counted.to(dtype)
    if pixel_weight is not None:
        v = v * pixel_weight.to(dtype)[:, None]
    return _Pixels(p, q, y.where(counted, 0.0), v, loss, negative_loss)


def label_count(logits: torch.Tensor, target: torch.Tensor, activation: str) -> int | None:
    """Number of values that an integer target may have, from 0 on; None where any is allowed.

    Two for masks [N, C, H, W], and for labels of a single class, with a sigmoid.
    """
    if target.is_floating_point() or (target.dim() == 4 and activation == "softmax"):
        return None
    classes = logits.shape[1]
    return 2 if activation == "sigmoid" and (classes == 1 or target.dim() == 4) else classes


def _times(weight: torch.Tensor, term: torch.Tensor) -> torch.Tensor:
    """weight * term, 0 where the weight is 0 whatever the term."""
    return (weight * term).where(weight != 0, 0.0)
