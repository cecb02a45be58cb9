"""Convolutions, norms and activations one after the other, in less time and memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.dilated_conv2d.op import dilated_conv2d_backward_op
from .conv import DilatedConv2d, convolve, convolve_and_clamp


class Chain(nn.Sequential):
    """nn.Sequential run by `run_chain`: the same parameters and values."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [N, C, H, W] -> map."""
        return run_chain(x, *self)


def run_chain(x: torch.Tensor, *modules: nn.Module) -> torch.Tensor:
    """The modules one after the other, those of nn.Sequential inside included.

    Where no gradients are recorded, a batch norm in eval mode is folded into the convolution before
    it, and a ReLU or ReLU6 after them joins them, which saves two passes over the map
    (`fastseg.fuse` folds once instead of at every call). In training, a batch norm, ReLU or ReLU6,
    and convolution that follow each other keep for the backward only what the norm reads: what the
    convolution reads is computed again, an elementwise operation, which nearly halves the memory of
    the chain.
    A module that has hooks is always called itself.
    """
    layers = list(flat_layers(modules))
    position = 0
    while position < len(layers):
        group = layers[position : position + 3]
        if _can_fold(group):
            act = group[2] if len(group) > 2 and _is_clamp(group[2]) else None
            x = _convolve(group[0], x, *folded_parameters(group[0], group[1]), act)
            position += 2 if act is None else 3
        elif _can_join(group):
            x = _convolve(group[0], x, group[0].weight, group[0].bias, group[1])
            position += 2
        elif _can_recompute(group, x):
            x = _norm_act_conv(group[0], group[1], group[2], x)
            position += 3
        else:
            x = layers[position](x)
            position += 1
    return x


def flat_layers(modules: Iterable[nn.Module]) -> Iterable[Any]:
    """The layers that the modules run one after the other, identities left out."""
    for module in modules:
        if isinstance(module, nn.Sequential) and has_no_hooks(module):
            yield from flat_layers(module)
        elif type(module) is not nn.Identity or not has_no_hooks(module):
            yield module


def has_no_hooks(*modules: nn.Module) -> bool:
    """Whether the modules may be run by other means than calling them."""
    return not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )


def _is_plain_batch_norm(norm: Any) -> bool:
    """Batch norm of one process, with everything that it can have."""
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.running_mean is not None


def can_be_folded(convolution: Any, norm: Any) -> bool:
    """Whether `folded_parameters` has an answer for these two modules, nn.Conv2d and batch norm."""
    return (
        type(convolution) in (nn.Conv2d, DilatedConv2d)
        and convolution.padding_mode == "zeros"
        and _is_plain_batch_norm(norm)
        and not norm.training
        and has_no_hooks(convolution, norm)
    )


def _can_fold(group: list[Any]) -> bool:
    return len(group) > 1 and not torch.is_grad_enabled() and can_be_folded(group[0], group[1])


def _is_clamp(module: nn.Module) -> bool:
    return type(module) in (nn.ReLU, nn.ReLU6) and has_no_hooks(module)


def _upper_limit(act: nn.Module) -> float:
    return 6.0 if isinstance(act, nn.ReLU6) else float("inf")


def _can_join(group: list[Any]) -> bool:
    return (
        len(group) > 1
        and not torch.is_grad_enabled()
        and type(group[0]) in (nn.Conv2d, DilatedConv2d)
        and group[0].padding_mode == "zeros"
        and has_no_hooks(group[0])
        and _is_clamp(group[1])
    )


def folded_parameters(convolution: nn.Conv2d, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the convolution that is norm(convolution(x)), norm in eval mode.

    They are computed in float32 at least, and rounded once.
    """
    weight = convolution.weight
    scale, shift = scale_and_shift(convolution, norm)
    folded = (weight.to(scale.dtype) * scale.view(-1, 1, 1, 1)).to(weight.dtype)
    return folded, shift.to(weight.dtype)


def scale_and_shift(convolution: nn.Conv2d, norm: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What norm, in eval mode, does to the convolution's sum of products; in float32 at least."""
    exact = torch.promote_types(convolution.weight.dtype, torch.float32)
    scale = norm.weight.to(exact) * torch.rsqrt(norm.running_var.to(exact) + norm.eps)
    mean = norm.running_mean.to(exact)
    if convolution.bias is not None:
        mean = mean - convolution.bias.to(exact)
    return scale, norm.bias.to(exact) - mean * scale


def _convolve(
    convolution: nn.Conv2d,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    act: nn.Module | None,
) -> torch.Tensor:
    if act is None:
        return convolve(convolution, x, weight, bias)
    return convolve_and_clamp(convolution, x, weight, bias, _upper_limit(act))


def _can_recompute(group: list[Any], x: torch.Tensor) -> bool:
    return (
        len(group) == 3
        and torch.is_grad_enabled()
        and _is_plain_batch_norm(group[0])
        and group[0].training
        and group[0].momentum is not None
        and type(group[1]) in (nn.ReLU, nn.ReLU6)
        and type(group[2]) in (nn.Conv2d, DilatedConv2d)
        and group[2].bias is None
        and group[2].padding_mode == "zeros"
        and not isinstance(group[2].padding, str)
        and has_no_hooks(*group)
        # torch.compile decides itself what to compute again.
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        # Otherwise batch norm raises; the module says so.
        and x.shape[0] * x.shape[2] * x.shape[3] > 1
    )


def _norm_act_conv(norm: Any, act: nn.Module, convolution: nn.Conv2d, x: torch.Tensor) -> Any:
    norm.num_batches_tracked.add_(1)
    return _NormActConv.apply(x, norm.weight, norm.bias, convolution.weight, norm, act, convolution)


class _NormActConv(torch.autograd.Function):
    """convolution(act(batch_norm(x))), which keeps x and the statistics for its backward."""

    @staticmethod
    def forward(ctx: Any, x, gamma, beta, weight, norm, act, convolution):
        y, mean, inverse_std, reserve, ctx.kind = torch.ops.aten._batch_norm_impl_index(
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
        ctx.limit = _upper_limit(act)
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
            grads = torch.ops.aten._batch_norm_impl_index_backward(
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
        """The same through PyTorch's own derivatives, which have derivatives themselves."""
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
    if isinstance(convolution, DilatedConv2d):
        return dilated_conv2d_backward_op(
            grad_out, x, weight, *geometry, convolution.groups, [*mask, False]
        )[:2]
    return torch.ops.aten.convolution_backward(
        grad_out, x, weight, None, *geometry, False, [0, 0], convolution.groups, [*mask, False]
    )[:2]
