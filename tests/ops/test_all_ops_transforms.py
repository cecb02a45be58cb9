"""What torch.func, forward-mode AD and vmap make of every op, against the torch composition.

Everything is in float64. The composition of an op is the peer of its sample table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from op_cases import (
    _cases,
    _few,
    each_labelling_sample,
    few_samples,
    inputs,
    samples_of,
)
from torch.autograd import forward_ad

Values = dict[str, Any]
Function = Callable[..., torch.Tensor]

_differentiable = _cases(lambda op: _few(op) if samples_of(op).differentiable else [])


@pytest.fixture(autouse=True)
def _no_slow_fallback() -> Iterator[None]:
    """PyTorch warns where it has no batching rule and runs one by one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop.*fastseg::")
        yield


def _random(like: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """Any numbers; torch.randn is not for use under vmap."""
    count = torch.arange(like.numel(), dtype=like.dtype)
    return torch.sin(count * (1.3 + seed) + seed).view(like.shape)


def _arguments(op: Any, sample: Any, function: Function) -> tuple[Function, tuple[Any, ...]]:
    """`function` of the op's differentiable arguments alone, and these in float64."""
    values = inputs(sample, torch.float64)
    names = [n for n in samples_of(op).differentiable if values.get(n) is not None]

    def of_them(*leaves: torch.Tensor) -> torch.Tensor:
        return function(**{**values, **dict(zip(names, leaves, strict=True))})

    return of_them, tuple(values[n] for n in names)


def _number(function: Function) -> Function:
    """A nonlinear number of its result."""

    def of(*args: torch.Tensor) -> torch.Tensor:
        result = function(*args)
        return (_random(result) * result + result**3 / 3).sum()

    return of


def _all(args: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(range(len(args)))


def _jvp(function: Function, args: tuple[Any, ...]) -> Any:
    return torch.func.jvp(function, args, tuple(_random(a, 2) for a in args))


def _jvp_of_each(function: Function, args: tuple[Any, ...]) -> Any:
    results = []
    for i, x in enumerate(args):
        rest = (args[:i], args[i + 1 :])
        of_one = lambda x, r=rest: function(*r[0], x, *r[1])  # noqa: E731
        results.append(torch.func.jvp(of_one, (x,), (_random(x, 2),))[1])
    return tuple(results)


def _dual(function: Function, args: tuple[Any, ...]) -> Any:
    with forward_ad.dual_level():
        result = function(*(forward_ad.make_dual(a, _random(a, 2)) for a in args))
        return _unpacked(result)


def _linearize(function: Function, args: tuple[Any, ...]) -> Any:
    result, push = torch.func.linearize(function, *args)
    return result, push(*(_random(a, 2) for a in args))


def _grad(function: Function, args: tuple[Any, ...]) -> Any:
    return torch.func.grad(_number(function), _all(args))(*args)


def _forward_over_reverse(function: Function, args: tuple[Any, ...]) -> Any:
    gradient = torch.func.grad(_number(function), _all(args))
    return torch.func.jvp(gradient, args, tuple(_random(a, 2) for a in args))


def _dual_over_backward(function: Function, args: tuple[Any, ...]) -> Any:
    """The same with forward_ad and autograd.grad."""
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a.clone().requires_grad_(), _random(a, 2)) for a in args]
        grads = torch.autograd.grad(_number(function)(*duals), duals)
        return tuple(map(_unpacked, grads))


def _unpacked(dual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    primal, tangent = forward_ad.unpack_dual(dual)
    return primal, torch.zeros_like(primal) if tangent is None else tangent


def _reverse_over_forward(function: Function, args: tuple[Any, ...]) -> Any:
    def moved(*args: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(_number(function), args, tuple(_random(a, 2) for a in args))[1]

    return torch.func.grad(moved, _all(args))(*args)


def _reverse_over_reverse(function: Function, args: tuple[Any, ...]) -> Any:
    gradient = torch.func.grad(_number(function), _all(args))
    _, pull = torch.func.vjp(gradient, *args)
    return pull(tuple(_random(a, 2) for a in args))


def _forward_over_forward(function: Function, args: tuple[Any, ...]) -> Any:
    def moved(*args: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(_number(function), args, tuple(_random(a, 2) for a in args))[1]

    return torch.func.jvp(moved, args, tuple(_random(a, 3) for a in args))


def _vmap_of_grad(function: Function, args: tuple[Any, ...]) -> Any:
    return torch.vmap(torch.func.grad(_number(function), _all(args)))(*_several(args))


def _grad_of_vmap(function: Function, args: tuple[Any, ...]) -> Any:
    return torch.func.grad(_number(torch.vmap(function)), _all(args))(*_several(args))


def _vmap_of_jvp(function: Function, args: tuple[Any, ...]) -> Any:
    tangents = tuple(torch.stack([_random(a, s) for s in (2, 3)]) for a in args)
    return torch.vmap(lambda *t: torch.func.jvp(function, args, t)[1])(*tangents)


def _several(args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.stack([a, a + 0.1 * _random(a, 4)]) for a in args)


_TRANSFORMS = (
    _jvp,
    _jvp_of_each,
    _dual,
    _linearize,
    _grad,
    _forward_over_reverse,
    _dual_over_backward,
    _reverse_over_forward,
    _reverse_over_reverse,
    _forward_over_forward,
    _vmap_of_grad,
    _grad_of_vmap,
    _vmap_of_jvp,
)
# The peer of this op looks at its tensors' values to build the lattice, which vmap cannot map over.
_LOOKS_AT_VALUES = ("permutohedral_filter",)


def _expected(op: Any, transform: Any, function: Function, args: tuple[Any, ...]) -> Any:
    """The transform of the composition; under vmap, where that cannot be mapped, one by one."""
    if transform is _linearize:  # which traces, and peers may look at values
        return _jvp(function, args)
    if op.name not in _LOOKS_AT_VALUES or "vmap" not in transform.__name__:
        return transform(function, args)
    if transform is _vmap_of_grad:
        several = _several(args)
        runs = [_grad(function, tuple(a[n] for a in several)) for n in range(2)]
        return tuple(torch.stack(g) for g in zip(*runs, strict=True))
    if transform is _vmap_of_jvp:
        tangents = [tuple(_random(a, s) for a in args) for s in (2, 3)]
        return torch.stack([torch.func.jvp(function, args, t)[1] for t in tangents])
    stacked = lambda *a: torch.stack([function(*(x[n] for x in a)) for n in range(2)])  # noqa: E731
    return torch.func.grad(_number(stacked), _all(args))(*_several(args))


def _assert_close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("transform", _TRANSFORMS, ids=lambda f: f.__name__[1:])
@_differentiable
def test_transforms(op, sample, transform):
    ours, args = _arguments(op, sample, samples_of(op).function)
    theirs, _ = _arguments(op, sample, samples_of(op).peer)
    _assert_close(transform(ours, args), _expected(op, transform, theirs, args))


@_differentiable
def test_jacobians_and_hessians(op, sample):
    """In the direction of three numbers: full ones would be large."""
    ours, args = _arguments(op, sample, samples_of(op).function)
    theirs, _ = _arguments(op, sample, samples_of(op).peer)
    directions = [torch.stack([_random(a, seed) for seed in (5, 6, 7)]) for a in args]

    def along(function: Function) -> Function:
        def of(numbers: torch.Tensor) -> torch.Tensor:
            moved = [
                a + torch.tensordot(numbers, d, 1) for a, d in zip(args, directions, strict=True)
            ]
            return function(*moved)

        return of

    zero = 0.01 * torch.ones(3, dtype=torch.float64)
    for of in (torch.func.jacfwd, torch.func.jacrev):
        _assert_close(of(along(ours))(zero), _jacobian(along(theirs), zero))
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            hessian = outer(inner(_number(along(ours))))(zero)
            _assert_close(hessian, _hessian(_number(along(theirs)), zero))


def _jacobian(function: Function, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(function, x)


def _hessian(function: Function, x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.hessian(function, x)


@few_samples
def test_vmap_in_all_dimensions(op, sample):
    """The images of vmap at any dimension of any of the tensors: as one by one."""
    values = inputs(sample, torch.float64)
    tensors = {n: v for n, v in values.items() if isinstance(v, torch.Tensor)}
    function = samples_of(op).function
    for mapped in [tuple(tensors), *((n,) for n in tensors)]:
        for back in (0, 1):
            dims = {n: tensors[n].dim() * back for n in mapped}
            several = {n: torch.stack([tensors[n], tensors[n].flip(0)], dims[n]) for n in mapped}
            run = lambda v: function(**{**values, **v})  # noqa: E731
            ours = torch.vmap(run, in_dims=(dims,))(several)
            runs = [run({n: x.select(dims[n], i) for n, x in several.items()}) for i in range(2)]
            torch.testing.assert_close(ours, torch.stack(runs), rtol=1e-12, atol=1e-12)


@few_samples
def test_vmap_over_nothing(op, sample):
    values = inputs(sample)
    first = next(n for n, v in values.items() if isinstance(v, torch.Tensor))
    function = samples_of(op).function
    one = function(**values)
    none = torch.vmap(lambda x: function(**{**values, first: x}))(values[first][None][:0])
    assert none.shape == (0, *one.shape) and none.dtype == one.dtype


@each_labelling_sample
def test_labels_have_no_tangent(op, sample):
    values = inputs(sample)
    first = next(iter(values))

    def function(x: torch.Tensor) -> torch.Tensor:
        return samples_of(op).function(**{**values, first: x})

    result, tangent = torch.func.jvp(function, (values[first],), (values[first],))
    assert torch.equal(result, function(values[first]))
    assert not tangent.is_floating_point() and tangent.count_nonzero() == 0
