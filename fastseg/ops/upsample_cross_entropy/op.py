"""The contract of upsample_cross_entropy: schema, fake, derivative, backends."""

from __future__ import annotations

from typing import Any

import torch

from ..._checks import check_map, check_same_device, check_shape, check_target
from ..._private_torch import is_transformed
from ...backends import Backend
from ...derivatives import Autograd, by_definition, tangent_by_definition
from ...dtypes import compute_dtype, widened
from ...layout import map_format
from ...registry import Function, OpSpec, define
from . import native, reference

_OPTIONS = (
    "Tensor logits, Tensor target, Tensor? weight, int ignore_index, str reduction, "
    "float label_smoothing, bool align_corners"
)


def _check(
    logits: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    *_: Any,
) -> None:
    check_map("logits", logits)
    check_target(target, logits)
    if weight is not None:
        if not weight.is_floating_point():
            raise TypeError(f"weight has dtype {weight.dtype}, expected floating point")
        check_shape("weight", weight, (logits.shape[1],), "one for each class of logits")
        check_same_device("weight", weight, "logits", logits)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}, allowed are 'mean', 'sum' and 'none'")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, expected a number in [0, 1]")


def _fake(logits: torch.Tensor, target: torch.Tensor, *options: Any) -> tuple[torch.Tensor, ...]:
    _, _, reduction, _, _, with_gradient, with_sums, wide_loss = options
    dtype = compute_dtype(logits)
    shape = target.shape if reduction == "none" else ()
    loss = logits.new_empty(shape, dtype=dtype if wide_loss else logits.dtype)
    sums = logits.new_empty(target.shape if with_sums else (0,), dtype=dtype)
    gradient = (
        torch.empty_like(logits, dtype=dtype, memory_format=map_format(logits))
        if with_gradient
        else logits.new_empty((0,), dtype=dtype)
    )
    return loss, gradient, sums, logits.new_empty((), dtype=torch.float64)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    logits, target, weight, *options, with_gradient, with_sums, _ = inputs
    _, gradient, sums, total_weight = output
    if weight is not None and weight.requires_grad:
        raise NotImplementedError("weight has no derivative, as in F.cross_entropy: detach it")
    ctx.options = options
    ctx.mark_non_differentiable(gradient, sums, total_weight)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, target, weight, total_weight, sums if with_sums else None)
    # An attribute and not a saved tensor: the backward hands this very tensor on, and then nothing
    # else may hold it. It has no forward-mode derivative.
    ctx.gradient = gradient if with_gradient and not is_transformed() else None


def _backward(ctx: Any, grad_loss: torch.Tensor | None, *_: Any) -> tuple[Any, ...]:
    if grad_loss is None:
        return (None,) * 10
    logits, target, weight, total_weight, sums = ctx.saved_tensors
    gradient, ctx.gradient = ctx.gradient, None
    if gradient is None or torch.is_grad_enabled():
        # On a GPU, with reduction="none", a second backward through a retained graph, or a double
        # backward.
        gradient = upsample_cross_entropy_backward_op(
            grad_loss, total_weight, sums, logits, target, weight, *ctx.options
        )
    elif not _is_one(grad_loss):
        gradient = gradient * grad_loss.to(gradient.dtype)
    return gradient.to(logits.dtype), *(None,) * 9


def _tangent(
    op: Any, arguments: dict[str, Any], tangents: dict[str, torch.Tensor], output: Any
) -> tuple[torch.Tensor | None, ...]:
    """That of the loss: through the softmax of the pixels, or with the gradient of their sum."""
    if "weight" in tangents:
        raise NotImplementedError("weight has no derivative, as in F.cross_entropy: detach it")
    options = list(arguments.values())[:7]
    loss, total_weight = output[0], output[3]
    if arguments["reduction"] == "none":
        moved = _tangent_of_pixels(op, dict(list(arguments.items())[:7]), tangents, loss)
    else:
        one = torch.ones((), dtype=total_weight.dtype, device=loss.device)
        gradient = upsample_cross_entropy_backward_op(one, total_weight, None, *options)
        moved = (widened(gradient) * widened(tangents["logits"])).sum()
    return moved.to(loss.dtype), None, None, None


def _losses_of_pixels(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, *options: Any
) -> torch.Tensor:
    ignore_index, _, label_smoothing, align_corners = options
    return reference.losses_of_pixels(
        logits, target, weight, ignore_index, label_smoothing, align_corners
    )


_tangent_of_pixels = tangent_by_definition(_losses_of_pixels)


def _is_one(grad_loss: torch.Tensor) -> bool:
    """Whether nothing is to be multiplied, where that is known without waiting for a device."""
    known = type(grad_loss) is torch.Tensor and grad_loss.device.type == "cpu"
    return known and grad_loss.item() == 1.0


def _check_backward(
    grad_loss: torch.Tensor,
    total_weight: torch.Tensor,
    sums: torch.Tensor | None,
    logits: torch.Tensor,
    *rest: Any,
) -> None:
    _check(logits, *rest)
    target, _, _, reduction, *_ = rest
    if sums is not None:
        check_shape("sums", sums, tuple(target.shape), "as target")
    expected = tuple(target.shape) if reduction == "none" else ()
    check_shape("grad_loss", grad_loss, expected, "as the loss")


def _fake_backward(
    grad_loss: torch.Tensor,
    total_weight: torch.Tensor,
    sums: torch.Tensor | None,
    logits: torch.Tensor,
    *_: Any,
) -> torch.Tensor:
    return torch.empty_like(logits, memory_format=map_format(logits))


def _in_float32(args: list[Any]) -> list[Any]:
    """Under autocast: the kernels read half-precision logits as they are, the loss is float32."""
    return [*args[:-1], True]


upsample_cross_entropy_op = define(
    OpSpec(
        name="upsample_cross_entropy",
        functions={
            # Results: the loss, in the type of logits, or with wide_loss in the compute type; if
            # with_gradient, its gradient to logits in the compute type (else
            # empty); if with_sums, what each pixel's softmax divides by (see scale.py; else empty);
            # the sum of the weights of the targets that count.
            "": Function(
                schema=f"({_OPTIONS}, bool with_gradient, bool with_sums, bool wide_loss) "
                "-> (Tensor, Tensor, Tensor, Tensor)",
                check=_check,
                fake=_fake,
                autograd=Autograd(_setup, _backward, _tangent),
            ),
            # In the type of logits. `sums` of the forward spare a GPU a pass over all pixels.
            "_backward": Function(
                schema="(Tensor grad_loss, Tensor total_weight, Tensor? sums, "
                f"{_OPTIONS}) -> Tensor",
                check=_check_backward,
                fake=_fake_backward,
                # A second derivative needs the upsampled logits, as PyTorch's composition.
                autograd=by_definition(reference.gradient_of_logits),
                implementation="backward",
            ),
        },
        backends={Backend.NATIVE: native, Backend.REFERENCE: reference},
        autocast=_in_float32,
    )
)
upsample_cross_entropy_backward_op = torch.ops.fastseg.upsample_cross_entropy_backward.default
