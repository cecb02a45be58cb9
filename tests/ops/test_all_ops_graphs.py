"""What holds for every op inside torch.compile, torch.export, opcheck and autocast."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import (
    each_sample,
    few_samples,
    first_samples,
    forward_and_gradients,
    inputs,
    recorded_calls,
    samples_of,
    variants,
)
from torch._dynamo.testing import CompileCounterWithBackend

# Public arguments whose first dimension is the batch.
BATCHED = (
    *("x", "x2", "x3", "x4", "added", "logits", "target", "pixel_weight", "values", "features"),
    *("value", "locations", "weights", "masks", "class_probs"),
)


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()


def _assert_same(one: Any, other: Any) -> None:
    (result, grads), (expected, expected_grads) = one, other
    assert torch.equal(result, expected)
    assert result.stride() == expected.stride()
    for name, grad in grads.items():
        assert torch.equal(grad, expected_grads[name]), name
        assert grad.stride() == expected_grads[name].stride(), name


def _twice_the_batch(values: dict[str, Any]) -> dict[str, Any]:
    """The same inputs with each image twice, in the same memory layout."""
    double = {k: torch.cat([values[k]] * 2) for k in BATCHED if values.get(k) is not None}
    for name, x in double.items():
        if values[name].dim() == 4 and not values[name].is_contiguous():
            double[name] = x.contiguous(memory_format=torch.channels_last)
    return {**values, **double}


@few_samples
def test_opcheck(op, sample):
    """Schema, autograd registration, fake implementation and AOT dispatch with dynamic shapes, of
    the op and of every derivative that it runs."""
    for function, args in recorded_calls(op, sample):
        floats = [isinstance(a, torch.Tensor) and a.is_floating_point() for a in args]
        # The first tensor of a function with a derivative is differentiable. The second derivative
        # of a lattice looks at values: it is for eager mode.
        twice = samples_of(op).double_backward and op.name != "permutohedral_filter"
        leaf = twice or function._opname == op.name
        grad = floats.index(True) if leaf and samples_of(op).differentiable else None
        args = tuple(a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args)
        if grad is not None:
            args[grad].requires_grad_()
        torch.library.opcheck(function, args)


@few_samples
def test_compile_is_one_graph(op, sample):
    table = samples_of(op)
    compiled = torch.compile(table.function, fullgraph=True, backend="aot_eager")
    _assert_same(
        forward_and_gradients(compiled, inputs(sample), table.differentiable),
        forward_and_gradients(table.function, inputs(sample), table.differentiable),
    )


@first_samples
def test_compile_with_dynamic_shapes(op, sample):
    """Another batch size runs the same graph."""
    table = samples_of(op)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(table.function, fullgraph=True, dynamic=True, backend=counter)
    values = inputs(sample)
    graphs = []
    # Dimensions that happen to be equal in the first call are not taken for the same one.
    with torch.fx.experimental._config.patch(use_duck_shape=False):
        for sized in (_twice_the_batch(values), _twice_the_batch(_twice_the_batch(values))):
            _assert_same(
                forward_and_gradients(compiled, sized, table.differentiable),
                forward_and_gradients(table.function, sized, table.differentiable),
            )
            graphs.append(counter.frame_count)
    assert graphs[0] == graphs[1], "compiled again"


@pytest.mark.slow
@first_samples
def test_compile_with_inductor(op, sample):
    """Between other operations, which inductor fuses and whose layouts it plans."""
    table = samples_of(op)

    def function(**values: Any) -> Any:
        first = next(iter(values))
        result = table.function(**{**values, first: values[first] * 2.0})
        return result * 0.5 if result.is_floating_point() else result + 1

    compiled = torch.compile(function, fullgraph=True)
    result, grads = forward_and_gradients(compiled, inputs(sample), table.differentiable)
    expected, expected_grads = forward_and_gradients(function, inputs(sample), table.differentiable)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(grads, expected_grads)


class _Module(torch.nn.Module):
    def __init__(self, function: Any, options: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.options = function, options

    def forward(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.function(**values, **self.options)


@few_samples
def test_export(op, sample):
    """One node in the graph, of any batch size."""
    values = _twice_the_batch(inputs(sample))
    options = {k: v for k, v in values.items() if not isinstance(v, torch.Tensor)}
    values = {k: v for k, v in values.items() if k not in options}
    module = _Module(samples_of(op).function, options)
    dynamic = {k: {0: torch.export.Dim.DYNAMIC} if k in BATCHED else None for k in values}
    program = torch.export.export(module, (values,), dynamic_shapes=(dynamic,), strict=False)
    targets = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert sum(t.startswith(f"fastseg.{op.name}") for t in targets) == 1, targets
    for sized in (values, _twice_the_batch(values)):
        assert torch.equal(program.module()(sized), module(sized))


@few_samples
def test_autocast(op, sample):
    """Ops in their input's dtype return the bits that they return outside; the others those of
    bfloat16 inputs. Whatever runs inside a backend is not autocast."""
    table = samples_of(op)
    lower = op.autocast == "lower precision"
    for variant in variants(op):
        with variant():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                result, grads = forward_and_gradients(
                    table.function, inputs(sample), table.differentiable
                )
            expected, expected_grads = forward_and_gradients(
                table.function,
                inputs(sample, torch.bfloat16 if lower else torch.float32),
                table.differentiable,
            )
        assert result.dtype == expected.dtype
        assert torch.equal(result, expected), variant
        for name, grad in grads.items():
            assert grad.dtype is torch.float32, name
            assert torch.equal(grad, expected_grads[name].float()), f"{name} on {variant}"


@few_samples
def test_autocast_in_a_compiled_graph(op, sample):
    table = samples_of(op)

    def function(**values: Any) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return table.function(**values)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    _assert_same(
        forward_and_gradients(compiled, inputs(sample), table.differentiable),
        forward_and_gradients(function, inputs(sample), table.differentiable),
    )


@each_sample
def test_inference_mode(op, sample):
    function = samples_of(op).function
    expected = function(**inputs(sample))
    with torch.inference_mode():
        assert torch.equal(function(**inputs(sample)), expected)


@first_samples
def test_meta_tensors(op, sample):
    """The fake implementation also answers for tensors on the meta device."""
    values = inputs(sample)
    result = samples_of(op).function(**values)
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    fake = samples_of(op).function(**meta)
    assert fake.device.type == "meta" and fake.shape == result.shape
    assert fake.dtype == result.dtype
