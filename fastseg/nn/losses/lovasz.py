"""Lovasz-Softmax loss, one class at a time: no second full-resolution copy of the logits."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class LovaszLoss(nn.Module):
    """Lovasz-Softmax: an extension of the Jaccard loss of each class, of upsampled logits.

    The classes are visited one after another: each is upsampled, its errors are sorted, and only
    maps of one class are kept, besides the sum of the exponentials and one sum for the gradient.
    The exact loss costs a sort of all pixels per class and direction; that is what its time goes
    into, and a fused kernel could not save it.

    Args:
        per_image: the mean of the losses of the images, instead of one of all pixels.
        ignore_index: target value of pixels that do not count, or None.
        align_corners: as in F.interpolate.

    Source: Berman, Triki, Blaschko, "The Lovasz-Softmax loss" (2018).
    """

    def __init__(
        self,
        per_image: bool = False,
        ignore_index: int | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.per_image, self.ignore_index = per_image, ignore_index
        self.align_corners = align_corners

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Low-resolution logits [N, C, h, w] and classes [N, H, W] -> a scalar: the mean over the
        classes in the target, 0 without any."""
        if target.dim() != 3 or target.is_floating_point():
            raise ValueError(
                f"target has shape {tuple(target.shape)} and dtype {target.dtype}, expected "
                "classes [N, H, W]"
            )
        ignored = -100 if self.ignore_index is None else self.ignore_index
        groups = [(logits, target)]
        if self.per_image:
            groups = [(logits[i : i + 1], target[i : i + 1]) for i in range(logits.shape[0])]
        losses = [_Lovasz.apply(x, y, ignored, self.align_corners) for x, y in groups]
        return torch.stack(losses).mean() if losses else logits.sum()


class _Lovasz(torch.autograd.Function):
    """Forward and backward each visit the classes one by one and keep no map of a class."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> torch.Tensor:
        wide = logits.to(torch.float64 if logits.dtype is torch.float64 else torch.float32)
        walk = _Classes(wide, target, ignored, align_corners)
        losses, common = [], torch.zeros_like(walk.log_sum)
        for c in walk.present:
            p = walk.probability(c)
            loss, slope = walk.loss_and_slope(c, p)
            losses.append(loss)
            common += p * slope
        ctx.save_for_backward(logits, target, common)
        ctx.options = ignored, align_corners
        return torch.stack(losses).mean() if losses else wide.sum() * 0.0

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        logits, target, common = ctx.saved_tensors
        wide = logits.to(common.dtype)
        walk = _Classes(wide, target, *ctx.options)
        result = torch.zeros_like(wide)
        present = set(walk.present)
        for c in range(wide.shape[1] if present else 0):
            p = walk.probability(c)
            slope = walk.loss_and_slope(c, p)[1] if c in present else 0.0
            full = p * (slope - common) * (grad / len(present))
            result[:, c : c + 1] = walk.adjoint(full.where(walk.counted, 0.0)[:, None])
        return result.to(logits.dtype), None, None, None


class _Classes:
    """The upsampled softmax, a class at a time."""

    def __init__(
        self, logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> None:
        self.logits, self.target, self.align_corners = logits, target, align_corners
        self.counted = target != ignored
        self.log_sum = self._resized(0)
        for c in range(1, logits.shape[1]):
            self.log_sum = torch.logaddexp(self.log_sum, self._resized(c))
        found = torch.unique(target[self.counted]).tolist()
        if found and not (0 <= found[0] and found[-1] < logits.shape[1]):
            raise ValueError(
                f"target has the classes {found[0]} to {found[-1]}, allowed are 0 to "
                f"{logits.shape[1] - 1} and ignore_index"
            )
        self.present: list[int] = found

    def _resized(self, c: int) -> torch.Tensor:
        plane = self.logits[:, c : c + 1]
        size = self.target.shape[1:]
        full = F.interpolate(plane, size, mode="bilinear", align_corners=self.align_corners)
        return full[:, 0]

    def probability(self, c: int) -> torch.Tensor:
        """[N, H, W]"""
        return (self._resized(c) - self.log_sum).exp()

    def loss_and_slope(self, c: int, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of class c, and its derivative to p [N, H, W]."""
        y = (self.target == c)[self.counted]
        errors = torch.where(y, 1.0 - p[self.counted], p[self.counted])
        order = errors.sort(descending=True, stable=True).indices
        truth = y[order].to(torch.float64)
        total = truth.sum()
        missed = truth.cumsum(0)
        jaccard = 1.0 - (total - missed) / (total + (1.0 - truth).cumsum(0))
        steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
        loss = (errors[order].double() * steps).sum().to(p.dtype)
        share = torch.empty_like(errors)
        share[order] = steps.to(p.dtype)
        slope = torch.zeros_like(p)
        slope[self.counted] = torch.where(y, -share, share)
        return loss, slope

    def adjoint(self, full: torch.Tensor) -> torch.Tensor:
        """Gradient [N, 1, h, w] of upsampling."""
        from ...ops.upsample_bilinear import upsample_bilinear

        with torch.enable_grad():
            plane = torch.zeros_like(self.logits[:, :1]).requires_grad_()
            size = (full.shape[2], full.shape[3])
            resized = upsample_bilinear(plane, size, align_corners=self.align_corners)
        return torch.autograd.grad(resized, plane, full)[0]
