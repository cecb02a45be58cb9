"""Parameters, buffers and subclasses of Tensor as the arguments of every op."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from op_cases import few_samples, forward_and_gradients, inputs, samples_of
from torch.utils import _pytree as pytree

from fastseg import upsample_conv2d


class Plain(torch.Tensor):
    """With the __torch_function__ of Tensor, which makes results of its class."""


class Noted(torch.Tensor):
    """Counts what is called with it."""

    calls = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.calls += 1
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapped(torch.Tensor):
    """A wrapper that sees every operation of the dispatcher, as quantized and distributed ones."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            dtype=inner.dtype,
            device=inner.device,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map_only(Wrapped, lambda x: x.inner, (args, kwargs or {}))
        return pytree.tree_map_only(torch.Tensor, cls, func(*args, **kwargs))


def _plain(x: torch.Tensor) -> torch.Tensor:
    return x.inner if isinstance(x, Wrapped) else x.as_subclass(torch.Tensor)


def _parameter(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(x, requires_grad=False)


_KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Parameter": _parameter,
    "Buffer": lambda x: torch.nn.Buffer(x),
    "Plain": lambda x: x.as_subclass(Plain),
    "Noted": lambda x: x.as_subclass(Noted),
    "Wrapped": Wrapped,
}
each_kind = pytest.mark.parametrize("kind", _KINDS.values(), ids=_KINDS)


@each_kind
@few_samples
def test_every_op_takes_them(op, sample, kind):
    table = samples_of(op)
    expected, grads = forward_and_gradients(table.function, inputs(sample), table.differentiable)
    values = inputs(sample)
    made = {k: kind(v) for k, v in values.items() if isinstance(v, torch.Tensor)}
    leaves = [made[n].detach().requires_grad_() for n in grads]
    made.update(zip(grads, leaves, strict=True))
    result = table.function(**{**values, **made})
    assert torch.equal(_plain(result), expected)
    if grads:
        grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
        grad = torch.empty_like(expected).copy_(grad.bfloat16())
        grad = Wrapped(grad) if isinstance(result, Wrapped) else grad
        for name, g in zip(grads, torch.autograd.grad(result, leaves, grad), strict=True):
            assert torch.equal(_plain(g), grads[name]), name


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@each_kind
def test_upsample_conv2d_takes_them_in_every_place(kind, mode, kernel):
    """In all places, and in one at a time: its own functions write over intermediate results."""
    shapes = [(1, 40, 4, 4), (1, 8, 4, 4), (1, 6, 8, 8)]
    tensors = [torch.randn(s) for s in shapes]
    tensors += [torch.randn(5, 54, kernel, kernel), torch.randn(5)]

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        result = upsample_conv2d(tensors[:3], tensors[3], tensors[4], size=8, mode=mode)
        grads = torch.autograd.grad(result.sum(), tensors)
        return [_plain(x) for x in (result, *grads)]

    expected = run([t.clone().requires_grad_() for t in tensors])
    mixed = [range(5)] if kind is Wrapped else [range(5), *([i] for i in range(5))]
    for places in mixed:
        made = [kind(t.clone()) if i in places else t.clone() for i, t in enumerate(tensors)]
        leaves = [t.detach().requires_grad_() for t in made]
        for ours, truth in zip(run(leaves), expected, strict=True):
            torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4)
