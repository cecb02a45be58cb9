"""What define() makes of an OpSpec."""

from __future__ import annotations

import pytest
import torch
from toy_op import toy_op

from fastseg import registry
from fastseg.registry import Function, OpSpec


@pytest.fixture
def toy():
    with toy_op("toy") as toy:
        yield toy


def _x(**options):
    return torch.randn(1, 2, 3, 4, **options)


def test_the_op_is_registered(toy):
    assert registry.ALL_OPS["toy"] is toy.spec
    assert str(toy.op) == "fastseg.toy.default"
    x = _x()
    torch.testing.assert_close(toy.op(x), 2 * x)


def test_gradient(toy):
    x = _x(requires_grad=True)
    toy.op(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 2))


def test_no_graph_without_need(toy):
    assert toy.op(_x()).grad_fn is None
    with torch.no_grad():
        assert toy.op(_x(requires_grad=True)).grad_fn is None


def test_a_missing_derivative_is_an_error_only_when_asked_for(toy):
    x = _x(requires_grad=True)
    (grad,) = torch.autograd.grad((toy.op(x) ** 2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=r"toy_backward.default has no derivative"):
        grad.sum().backward()


def test_results_get_the_layout_of_the_spec(toy):
    x = _x().contiguous(memory_format=torch.channels_last)
    assert toy.op(x).is_contiguous(memory_format=torch.channels_last)


def test_writes_are_counted_so_that_autograd_notices(toy):
    x, out = _x(), torch.ones(1, 2, 3, 4)
    weight = torch.ones(1, 2, 3, 4, requires_grad=True)
    product = out * weight
    toy_out = torch.ops.fastseg.toy_out
    toy_out(x, out)
    torch.testing.assert_close(out, 2 * x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_autocast_does_not_reach_into_backends(toy):
    x = _x()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ torch.eye(4)).dtype is torch.bfloat16
        assert toy.op(x).dtype is torch.float32


def test_autocast_of_ops_in_lower_precision():
    with toy_op("lower_toy", autocast="lower precision") as toy:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = _x(requires_grad=True)
            assert toy.op(x).dtype is torch.bfloat16
            assert toy.op(_x().double()).dtype is torch.float64
        toy.op(x).sum().backward()
        assert x.grad.dtype is torch.float32


def test_checks_run_in_kernel_and_fake(toy):
    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match=r"^x has no dimension$"):
            toy.op(torch.tensor(1.0, device=device))


def test_kernels_stay_out_of_graphs(toy):
    """An op that a graph break leaves to Python does not have its kernel compiled."""
    graphs = []

    def backend(graph, _):
        graphs.append([str(n.target) for n in graph.graph.nodes if n.op == "call_function"])
        return graph.forward

    def function(x):
        try:
            return toy.op(x)  # refused in tracing and in eager: the frame is left to Python
        except ValueError:
            return toy.op(x[None, None, None, None] * 3)

    torch._dynamo.reset()
    result = torch.compile(function, backend=backend)(torch.tensor(1.0))
    assert result.item() == 6
    assert all("matmul" not in target for graph in graphs for target in graph)


@pytest.mark.parametrize("schema", ["(Tensor x, int n=1) -> Tensor", "(Tensor x, *, int n) -> ()"])
def test_schemas_without_defaults_and_keywords(schema):
    library = torch.library.Library("fastseg", "FRAGMENT")
    spec = OpSpec("odd", {"": Function(schema=schema, fake=lambda *args: None)}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "LIBRARY", library)
        with pytest.raises(ValueError, match="defaults and keywords"):
            registry.define(spec)
    library._destroy()
    assert "odd" not in registry.ALL_OPS
