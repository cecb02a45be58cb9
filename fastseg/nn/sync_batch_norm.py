"""Batch norm with statistics over all processes, on any device and backend."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .._private_torch import BatchNorm
from ..dtypes import compute_dtype


class SyncBatchNorm2d(BatchNorm):
    """nn.BatchNorm2d over the batches of all processes together.

    The same parameters, buffers and state_dict as nn.BatchNorm2d. torch.nn.SyncBatchNorm computes
    the same, but on GPUs only. Deterministic, and the same bits on every process.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W]; N may differ between the processes."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        output, mean, var, count = _SyncBatchNorm.apply(input, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None:
            assert self.running_var is not None and self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                momentum = self.momentum
                if momentum is None:  # the average over all batches
                    momentum = 1.0 / float(self.num_batches_tracked)
                unbiased = var * (count / (count - 1).clamp_min(1))
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        return output

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() != 4:
            raise ValueError(f"input has shape {tuple(input.shape)}, expected [N, C, H, W]")


class _SyncBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        eps: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        dtype = compute_dtype(x)
        var, mean = torch.var_mean(x.to(dtype), dim=(0, 2, 3), correction=0)
        count = x.new_tensor([x.numel() // x.shape[1]], dtype=dtype)
        mean, var, total = _merged(mean, var, count)
        if float(total) < 2:
            raise ValueError(
                "batch norm needs more than one value per channel over all processes in training, "
                f"got input of shape {tuple(x.shape)}"
            )
        inverse = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, inverse, total)
        ctx.mark_non_differentiable(mean, var, total)
        scale = inverse if weight is None else inverse * weight.to(dtype)
        shift = -mean * scale if bias is None else bias.to(dtype) - mean * scale
        output = torch.addcmul(shift.view(1, -1, 1, 1), x, scale.view(1, -1, 1, 1)).to(x.dtype)
        return output, mean, var, total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, *_: Any) -> Any:
        if torch.is_grad_enabled():  # create_graph=True: sums over processes are not recorded
            raise NotImplementedError("synchronised batch norm has no second derivative")
        x, weight, mean, inverse, total = ctx.saved_tensors
        dtype = mean.dtype
        gradient = grad.to(dtype)
        normalised = (x - mean.view(1, -1, 1, 1)) * inverse.view(1, -1, 1, 1)
        sums = torch.stack([gradient.sum((0, 2, 3)), (gradient * normalised).sum((0, 2, 3))])
        # The parameters' own gradients stay local: data-parallel training averages them later.
        grad_weight, grad_bias = None, None
        if weight is not None:
            grad_bias, grad_weight = (part.to(weight.dtype) for part in sums.clone())
        dist.all_reduce(sums)
        scale = inverse if weight is None else inverse * weight.to(dtype)
        mean_grad, mean_product = (sums / total).view(2, 1, -1, 1, 1)
        grad_x = (gradient - mean_grad - normalised * mean_product) * scale.view(1, -1, 1, 1)
        return grad_x.to(x.dtype), grad_weight, grad_bias, None


def _merged(
    mean: torch.Tensor, var: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, (biased) variance and number of values over all processes.

    Means and squared deviations are merged, not sums and sums of squares, which would cancel.
    """
    own = torch.cat([mean, var, count])
    parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, own)
    channels = mean.numel()
    means, variances, counts = torch.stack(parts).split([channels, channels, 1], dim=1)
    total = counts.sum(0)
    share = counts / total
    merged = (share * means).sum(0)
    return merged, (share * (variances + (means - merged) ** 2)).sum(0), total


def synchronised(module: nn.Module) -> nn.Module:
    """Replaces every nn.BatchNorm2d below a module by one over all processes, sharing its tensors.

    Returns:
        The module; another one only if it is a batch norm itself.
    """
    if type(module) is nn.BatchNorm2d:
        return _converted(module)
    for name, child in module.named_children():
        setattr(module, name, synchronised(child))
    return module


def _converted(norm: nn.BatchNorm2d) -> SyncBatchNorm2d:
    new = SyncBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    new._parameters = norm._parameters
    new._buffers = norm._buffers
    new.training = norm.training
    return new
