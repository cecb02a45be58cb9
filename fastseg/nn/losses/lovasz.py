"""Lovasz losses: Lovasz-Softmax, and the Lovasz hinge of masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..._private_torch import may_write_in_place
from ...dtypes import widened
from ...ops.upsample_bilinear import upsample_bilinear
from .sums import MODES, NO_INDEX


class LovaszLoss(nn.Module):
    """Lovasz extension of the Jaccard loss, of bilinearly upsampled logits.

    The same as smp.losses.LovaszLoss of the upsampled logits. Mode "multiclass" is Lovasz-Softmax.
    Its classes are visited one after another: each is upsampled, its errors are sorted, and only
    maps of one class are kept, besides the sum of the exponentials and one sum for the gradient.
    Modes "binary" and "multilabel" are the Lovasz hinge, which sorts the elements of all labels at
    once. The exact loss costs a sort; that is what its time goes into, and a fused kernel could not
    save it.

    Args:
        mode: "binary", "multiclass" or "multilabel".
        per_image: the mean of the losses of the images, instead of one of all pixels.
        ignore_index: target value of pixels that do not count, or None.
        align_corners: as in F.interpolate.

    Raises:
        ValueError: mode is none of these.

    Source: Berman, Triki, Blaschko, "The Lovasz-Softmax loss" (2018).
    """

    def __init__(
        self,
        mode: str = "multiclass",
        per_image: bool = False,
        ignore_index: int | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, allowed are {', '.join(map(repr, MODES))}")
        self.mode, self.per_image, self.ignore_index = mode, per_image, ignore_index
        self.align_corners = align_corners

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Low-resolution logits [N, C, h, w] and a target at full resolution -> a scalar.

        Args:
            target: "multiclass": classes [N, H, W] or [N, 1, H, W]; "binary": masks of 0 and 1, of
                the same shapes; "multilabel": masks [N, C, H, W].

        Returns:
            "multiclass": the mean over the classes that the target has. 0 if no pixel counts.

        Raises:
            ValueError: the target has another shape, or classes that the logits do not have.
        """
        target = self._checked(logits, target)
        ignored = NO_INDEX if self.ignore_index is None else self.ignore_index
        groups = [(logits, target)]
        if self.per_image:
            groups = [(logits[i : i + 1], target[i : i + 1]) for i in range(logits.shape[0])]
        losses = [self._of_group(x, y, ignored) for x, y in groups]
        return torch.stack(losses).mean() if losses else logits.sum()

    def _checked(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Classes [N, H, W], or masks [N, C, H, W]."""
        channels = logits.shape[1]
        if self.mode == "binary" and channels != 1:
            raise ValueError(f"logits has {channels} channels, expected 1 in mode 'binary'")
        if self.mode == "multilabel":
            fits = target.dim() == 4 and target.shape[1] == channels
            wanted = f"masks [N, {channels}, H, W]"
        else:
            fits = target.dim() == 3 or (target.dim() == 4 and target.shape[1] == 1)
            fits &= self.mode == "binary" or not target.is_floating_point()
            wanted = "masks [N, H, W]" if self.mode == "binary" else "classes [N, H, W]"
        if not fits or target.shape[0] != logits.shape[0]:
            raise ValueError(
                f"target has shape {tuple(target.shape)} and dtype {target.dtype}, "
                f"expected {wanted}"
            )
        if self.mode == "multiclass":
            return target[:, 0] if target.dim() == 4 else target
        return target[:, None] if target.dim() == 3 else target

    def _of_group(self, logits: torch.Tensor, target: torch.Tensor, ignored: int) -> torch.Tensor:
        function = _Softmax if self.mode == "multiclass" else _Hinge
        if may_write_in_place(logits, target):
            loss: torch.Tensor = function.apply(logits, target, ignored, self.align_corners)
            return loss
        return function.definition(logits, target, ignored, self.align_corners)


class _Softmax(torch.autograd.Function):
    """Forward and backward each visit the classes one by one and keep no map of a class."""

    @staticmethod
    def definition(
        logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> torch.Tensor:
        """The same, differentiable any number of times, with maps of all classes."""
        full = _resized(widened(logits), target, align_corners).softmax(1)
        counted = target != ignored
        losses, present = [], []
        for c, p in enumerate(full.unbind(1)):
            y = (target == c) & counted
            errors = torch.where(y, 1.0 - p, p)
            losses.append(_of_errors(errors, y, counted))
            present.append(y.any())
        found = torch.stack(present)
        return torch.stack(losses).where(found, 0.0).sum() / found.sum().clamp_min(1)

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> torch.Tensor:
        wide = widened(logits)
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
        if torch.is_grad_enabled():  # the gradient will be differentiated
            return _differentiable_gradient(_Softmax.definition, grad, logits, target, ctx.options)
        wide = logits.to(common.dtype)
        walk = _Classes(wide, target, *ctx.options)
        result = torch.zeros_like(wide)
        present = set(walk.present)
        for c in range(wide.shape[1] if present else 0):
            p = walk.probability(c)
            slope = walk.loss_and_slope(c, p)[1] if c in present else 0.0
            full = p * (slope - common) * (grad / len(present))
            full = full.where(walk.counted, 0.0)[:, None]
            result[:, c : c + 1] = _adjoint(wide[:, :1], full, ctx.options[1])
        return result.to(logits.dtype), None, None, None


class _Hinge(torch.autograd.Function):
    """Forward keeps the gradient at low resolution, and nothing at full resolution."""

    @staticmethod
    def definition(
        logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> torch.Tensor:
        """The same, differentiable any number of times."""
        full = _resized(widened(logits), target, align_corners)
        y = target.to(full.dtype)
        errors = 1.0 - full * (2.0 * y - 1.0)
        return _of_errors(errors, y, target != ignored, hinge=True)

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> torch.Tensor:
        wide = widened(logits)
        full = _resized(wide, target, align_corners)
        counted = target != ignored
        y = target[counted].to(full.dtype)
        signs = 2.0 * y - 1.0
        errors = 1.0 - full[counted] * signs
        order = errors.sort(descending=True, stable=True).indices
        steps = _steps(y[order])
        loss = (errors[order].clamp_min(0.0).double() * steps).sum().to(full.dtype)
        if not ctx.needs_input_grad[0]:
            return loss
        slope = torch.empty_like(errors)
        slope[order] = steps.to(full.dtype)
        slope = -(slope * signs).where(errors > 0, 0.0)
        full.zero_()[counted] = slope
        ctx.save_for_backward(logits, target, _adjoint(wide, full, align_corners))
        ctx.options = ignored, align_corners
        return loss

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        logits, target, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():
            return _differentiable_gradient(_Hinge.definition, grad, logits, target, ctx.options)
        return (gradient * grad).to(logits.dtype), None, None, None


class _Classes:
    """The upsampled softmax, a class at a time."""

    def __init__(
        self, logits: torch.Tensor, target: torch.Tensor, ignored: int, align_corners: bool
    ) -> None:
        self.logits, self.target, self.align_corners = logits, target, align_corners
        self.counted = target != ignored
        self.log_sum = self._plane(0)
        for c in range(1, logits.shape[1]):
            self.log_sum = torch.logaddexp(self.log_sum, self._plane(c))
        found = torch.unique(target[self.counted]).tolist()
        if found and not (0 <= found[0] and found[-1] < logits.shape[1]):
            raise ValueError(
                f"target has the classes {found[0]} to {found[-1]}, allowed are 0 to "
                f"{logits.shape[1] - 1} and ignore_index"
            )
        self.present: list[int] = found

    def _plane(self, c: int) -> torch.Tensor:
        return _resized(self.logits[:, c : c + 1], self.target, self.align_corners)[:, 0]

    def probability(self, c: int) -> torch.Tensor:
        """[N, H, W]"""
        return (self._plane(c) - self.log_sum).exp()

    def loss_and_slope(self, c: int, p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of class c, and its derivative to p [N, H, W]."""
        y = (self.target == c)[self.counted]
        errors = torch.where(y, 1.0 - p[self.counted], p[self.counted])
        order = errors.sort(descending=True, stable=True).indices
        steps = _steps(y[order])
        loss = (errors[order].double() * steps).sum().to(p.dtype)
        share = torch.empty_like(errors)
        share[order] = steps.to(p.dtype)
        slope = torch.zeros_like(p)
        slope[self.counted] = torch.where(y, -share, share)
        return loss, slope


def _of_errors(
    errors: torch.Tensor, y: torch.Tensor, counted: torch.Tensor, hinge: bool = False
) -> torch.Tensor:
    """The extension of the Jaccard loss at `errors`, whose order is taken as constant."""
    # Ignored pixels come last, without an error and without being positive.
    keys = errors.detach().where(counted, -torch.inf).flatten()
    order = keys.sort(descending=True, stable=True).indices
    kept = errors.where(counted, 0.0).flatten().gather(0, order)
    truth = y.where(counted, torch.zeros_like(y)).flatten().gather(0, order)
    kept = kept.clamp_min(0.0) if hinge else kept
    return (kept.double() * _steps(truth)).sum().to(errors.dtype)


def _steps(truth: torch.Tensor) -> torch.Tensor:
    """What each error weighs, in the order of falling errors; truth is 1 for positives."""
    truth = truth.double()
    total = truth.sum()
    jaccard = 1.0 - (total - truth.cumsum(0)) / (total + (1.0 - truth).cumsum(0))
    return torch.diff(jaccard, prepend=jaccard.new_zeros(1))


def _resized(logits: torch.Tensor, target: torch.Tensor, align_corners: bool) -> torch.Tensor:
    """The logits at the size of the target."""
    size = (target.shape[-2], target.shape[-1])
    return upsample_bilinear(logits, size, align_corners=align_corners)


def _adjoint(like: torch.Tensor, full: torch.Tensor, align_corners: bool) -> torch.Tensor:
    """The gradient of upsampling, in the shape of `like`, from that at full resolution."""
    with torch.enable_grad():
        low = torch.zeros_like(like).requires_grad_()
        resized = _resized(low, full, align_corners)
    return torch.autograd.grad(resized, low, full)[0]


def _differentiable_gradient(
    definition: Any,
    grad: torch.Tensor,
    logits: torch.Tensor,
    target: torch.Tensor,
    options: tuple[int, bool],
) -> tuple[Any, ...]:
    loss = definition(logits, target, *options)
    (gradient,) = torch.autograd.grad(loss, logits, grad, create_graph=True)
    return gradient, None, None, None
