"""What holds for every op: numbers, layouts, derivatives, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import (
    cast,
    each_differentiable_sample,
    each_labelling_sample,
    each_linear_sample,
    each_sample,
    each_variant_dtype_sample,
    forward_and_gradients,
    inputs,
    on_a_grid,
    recorded_calls,
    samples_of,
    tensors,
    variants,
)
from torch._prims_common import check_significant_strides
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import Backend, _native
from fastseg.layout import map_format
from fastseg.testing import assert_as_accurate, poisoned_empty, relative_error


def test_the_native_core_is_there():
    assert _native.load_error is None


def _peer(op: Any, values: dict[str, Any], dtype: torch.dtype) -> Any:
    """PyTorch's result and gradients; where its kernel lacks the dtype, those of float32 rounded
    to it, which is better than any such kernel could be."""
    table = samples_of(op)
    try:
        return forward_and_gradients(table.peer, values, table.differentiable)
    except (RuntimeError, NotImplementedError) as error:
        if "not implemented" not in str(error):
            raise
    values = cast(values, torch.float32)
    result, grads = forward_and_gradients(table.peer, values, table.differentiable)
    return result.to(dtype), {name: g.to(dtype) for name, g in grads.items()}


def _assert_as_accurate(
    dtype: torch.dtype,
    ours: torch.Tensor,
    peer: torch.Tensor,
    truth: torch.Tensor,
    single: torch.Tensor,
    **rest: Any,
) -> None:
    """assert_as_accurate for inputs of `dtype`. For float64 PyTorch's own result is the truth
    (on_a_grid makes it one where sums of products are all there is): its error counts as that of
    float32 (`single`) scaled by the unit roundoff, the truth may be off by it as well, and four
    units are always allowed."""
    if dtype is not torch.float64:
        return assert_as_accurate(ours, peer, truth, **rest)
    eps = torch.finfo(torch.float64).eps
    scaled = relative_error(single, truth) * eps / torch.finfo(torch.float32).eps
    error, bound = relative_error(ours, truth), max((rest["ratio"] + 1) * scaled, 4 * eps)
    assert error <= bound, f"{rest['what']}: error {error:.2e}, allowed is {bound:.2e}"


@each_variant_dtype_sample
def test_as_accurate_as_pytorch(op, variant, dtype, sample):
    table = samples_of(op)
    values = inputs(sample, dtype)
    if dtype is torch.float64:
        values = on_a_grid(values)
    with variant(), poisoned_empty():
        ours, our_grads = forward_and_gradients(table.function, values, table.differentiable)
    if table.compare is not None:
        table.compare(values, ours)
        return
    peer, peer_grads = _peer(op, values, dtype)
    truth, true_grads = _peer(op, cast(values, torch.float64), torch.float64)
    single, single_grads = peer, peer_grads
    if dtype is torch.float64:
        single, single_grads = _peer(op, cast(values, torch.float32), torch.float32)
    arguments = (ours, peer, truth, single)
    _assert_as_accurate(dtype, *arguments, ratio=op.tolerance, what="result")
    for name, grad in our_grads.items():
        assert grad.shape == values[name].shape and grad.dtype == dtype
        arguments = (grad, peer_grads[name], true_grads[name], single_grads[name])
        _assert_as_accurate(dtype, *arguments, ratio=op.tolerance, what=f"gradient to {name}")


def _leaves(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else [r for r in result if r is not None]


@each_sample
def test_results_look_like_those_of_the_fake_implementation(op, sample):
    """Shape, dtype and strides, on every backend, for the op and its derivatives."""
    for function, args in recorded_calls(op, sample):
        if not function._schema.returns:
            continue
        with FakeTensorMode() as mode:
            fake_args = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
            fakes = _leaves(function(*fake_args))
        for variant in variants(op):
            with variant():
                results = _leaves(function(*args))
            assert len(results) == len(fakes)
            for result, fake in zip(results, fakes, strict=True):
                what = f"{function} on {variant}"
                assert result.dtype == fake.dtype, what
                assert result.shape == fake.shape, what
                same, _ = check_significant_strides(result, fake, allow_rhs_unbacked=False)
                assert same, f"{what}: strides {result.stride()}, fake {fake.stride()}"


@each_sample
def test_same_memory_format_in_and_out(op, sample):
    """channels_last in, channels_last out: the result, and the gradients of maps."""
    table = samples_of(op)
    values = inputs(sample)
    result, grads = forward_and_gradients(table.function, values, table.differentiable)
    for name, grad in grads.items():
        if values[name].dim() == 4:
            expected = map_format(values[name])
            assert grad.is_contiguous(memory_format=expected), f"gradient to {name}"
    first = tensors(values)[0]
    if result.dim() == 4:
        assert result.is_contiguous(memory_format=map_format(first))


def _bits(*results: torch.Tensor) -> list[torch.Tensor]:
    return [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in results]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@each_sample
def test_same_bits_again_and_at_any_thread_count(op, sample, dtype):
    table = samples_of(op)

    def run(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        values = inputs(sample, dtype)
        result, grads = forward_and_gradients(table.function, values, table.differentiable)
        return _bits(result, *grads.values())

    for variant in variants(op):
        if variant.backend is Backend.NATIVE:
            with variant():
                first = run(1)
                for threads in (1, 2, 3, 5):
                    assert all(map(torch.equal, first, run(threads))), f"{variant}, {threads}"


@each_sample
def test_inputs_stay_as_they_are(op, sample):
    table = samples_of(op)
    values, same = inputs(sample), inputs(sample)
    versions = [t._version for t in tensors(values)]
    forward_and_gradients(table.function, values, table.differentiable)
    assert all(map(torch.equal, _bits(*tensors(values)), _bits(*tensors(same))))
    assert [t._version for t in tensors(values)] == versions


@each_differentiable_sample
def test_gradients_that_come_expanded(op, sample):
    """result.sum().backward() sends a gradient of stride 0."""
    table = samples_of(op)
    names = [n for n in table.differentiable if inputs(sample).get(n) is not None]

    def gradients(expanded: bool) -> tuple[torch.Tensor, ...]:
        values = inputs(sample)
        leaves = [values[n].requires_grad_() for n in names]
        result = table.function(**values)
        one = torch.ones((), dtype=result.dtype).expand_as(result)
        return torch.autograd.grad(result, leaves, one if expanded else one.clone())

    for x, y in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(x, y)


def _differentiable(op: Any, sample: Any) -> tuple[Any, list[torch.Tensor]]:
    """The op as a function of its differentiable arguments alone, and those in float64."""
    table = samples_of(op)
    values = inputs(sample, torch.float64)
    names = [n for n in table.differentiable if values.get(n) is not None]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return table.function(**{**values, **dict(zip(names, leaves, strict=True))})

    return function, [values[n].requires_grad_() for n in names]


@each_differentiable_sample
def test_gradcheck(op, sample):
    function, leaves = _differentiable(op, sample)
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)


@each_differentiable_sample
def test_gradients_of_gradients(op, sample):
    function, leaves = _differentiable(op, sample)
    if samples_of(op).double_backward:
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)
        return
    grads = torch.autograd.grad((function(*leaves) ** 2).sum(), leaves, create_graph=True)
    with pytest.raises(NotImplementedError):
        torch.autograd.grad(sum(g.sum() for g in grads), leaves)


@each_linear_sample
def test_backward_is_the_adjoint(op, sample):
    """<A x, y> = <x, A' y> for ops that are linear in an argument."""
    name = samples_of(op).linear_in
    values = inputs(sample, torch.float64)
    for other in samples_of(op).differentiable:
        if other != name and values.get(other) is not None and values[other].dim() == 1:
            values[other] = None  # a bias: affine, not linear
    result, grads = forward_and_gradients(samples_of(op).function, values, (name,))
    y = torch.randn(result.shape, generator=torch.Generator().manual_seed(1)).bfloat16().double()
    left, right = (result * y).sum(), (values[name] * grads[name]).sum()
    size = result.norm() * y.norm() + values[name].norm() * grads[name].norm()
    assert (left - right).abs() <= 64 * torch.finfo(torch.float64).eps * size


@each_labelling_sample
def test_integer_results_carry_no_gradient(op, sample):
    values = inputs(sample)
    for x in tensors(values):
        x.requires_grad_(x.is_floating_point())
    assert not samples_of(op).function(**values).requires_grad
