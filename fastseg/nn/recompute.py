"""Batch norm, activation and convolution in training, without saving the maps between them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .._private_torch import batch_norm_backward, batch_norm_with_state
from ..ops.dilated_conv2d.op import dilated_conv2d_backward_op
from .conv import convolve, is_ours


def upper_limit(act: nn.Module) -> float:
    """The upper limit of a ReLU6 or ReLU: 6 or infinity."""
    return 6.0 if isinstance(act, nn.ReLU6) else float("inf")


def norm_act_conv(norm: Any, act: nn.Module, convolution: nn.Conv2d, x: torch.Tensor) -> Any:
    """convolution(act(norm(x))), norm in training mode and act a ReLU or ReLU6.

    The backward recomputes the convolution's input from x and the statistics.
    """
    norm.num_batches_tracked.add_(1)
    return _NormActConv.apply(x, norm.weight, norm.bias, convolution.weight, norm, act, convolution)


class _NormActConv(torch.autograd.Function):
    """convolution(act(batch_norm(x))), which keeps x and the statistics for its backward."""

    @staticmethod
    def forward(ctx: Any, x, gamma, beta, weight, norm, act, convolution):
        y, mean, inverse_std, reserve, ctx.kind = batch_norm_with_state(
            x,
            gamma,
            beta,
            norm.running_mean,
            norm.running_var,
            True,
            norm.momentum,
            norm.eps,
            torch.backends.cudnn.enabled,
        )
        ctx.save_for_backward(x, gamma, beta, weight, mean, inverse_std, reserve)
        ctx.eps = norm.eps
        ctx.limit = upper_limit(act)
        ctx.convolution = convolution
        out = convolve(convolution, y.clamp_(0.0, ctx.limit), weight, None)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: torch.Tensor):
        if torch.is_grad_enabled():  # create_graph=True
            return _NormActConv._differentiable_backward(ctx, grad_out)
        x, gamma, beta, weight, mean, inverse_std, reserve = ctx.saved_tensors
        needs_x, needs_gamma, needs_beta, needs_weight = ctx.needs_input_grad[:4]
        scale = gamma * inverse_std
        shift = beta - mean * scale
        shape = (1, -1, 1, 1)
        y = torch.addcmul(shift.view(shape), x, scale.view(shape))
        y = y.clamp_(0.0, ctx.limit).to(grad_out.dtype)
        below = needs_x or needs_gamma or needs_beta
        grad, grad_weight = _convolution_backward(
            ctx.convolution, grad_out, y, weight.to(grad_out.dtype), [below, needs_weight]
        )
        grads: tuple[Any, ...] = (None, None, None)
        if below:
            grad = torch.ops.aten.hardtanh_backward(grad, y, 0.0, ctx.limit).to(x.dtype)
            del y
            grads = batch_norm_backward(
                ctx.kind,
                x,
                grad,
                gamma,
                None,
                None,
                mean,
                inverse_std,
                True,
                ctx.eps,
                [needs_x, needs_gamma, needs_beta],
                reserve,
            )
        if needs_weight:
            grad_weight = grad_weight.to(weight.dtype)
        return *grads, grad_weight if needs_weight else None, None, None, None

    @staticmethod
    def _differentiable_backward(ctx: Any, grad_out: torch.Tensor) -> tuple[Any, ...]:
        """The same by PyTorch's own backward functions, which are differentiable."""
        x, gamma, beta, weight = ctx.saved_tensors[:4]
        y = F.batch_norm(x, None, None, gamma, beta, True, eps=ctx.eps)
        y = y.clamp(0.0, ctx.limit).to(grad_out.dtype)
        out = convolve(ctx.convolution, y, weight.to(grad_out.dtype), None)
        inputs = (x, gamma, beta, weight)
        needed = [i for i in range(4) if ctx.needs_input_grad[i]]
        grads: list[Any] = [None] * 7
        found = torch.autograd.grad(out, [inputs[i] for i in needed], grad_out, create_graph=True)
        for index, grad in zip(needed, found, strict=True):
            grads[index] = grad
        return tuple(grads)


def _convolution_backward(
    convolution: nn.Conv2d,
    grad_out: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    mask: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients to x and to the weight, as far as mask asks for them."""
    geometry = [list(convolution.stride), list(convolution.padding), list(convolution.dilation)]
    if is_ours(convolution):
        return dilated_conv2d_backward_op(
            grad_out, x, weight, *geometry, convolution.groups, [*mask, False]
        )[:2]
    return torch.ops.aten.convolution_backward(
        grad_out, x, weight, None, *geometry, False, [0, 0], convolution.groups, [*mask, False]
    )[:2]
