"""gaussian_filter through Triton on a GPU: numbers, bits, graphs, streams, real sizes."""

from __future__ import annotations

import pytest
import test_all_ops as generic
import torch
from op_cases import forward_and_gradients, inputs, samples_of

from fastseg import Backend, gaussian_filter, use_backend
from fastseg.backends import choose
from fastseg.ops.gaussian_filter import triton_config, triton_filter
from fastseg.registry import ALL_OPS
from fastseg.testing import assert_as_accurate, poisoned_empty

pytest.importorskip("triton")
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_gpu")]

OP = ALL_OPS["gaussian_filter"]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def triton():
    return use_backend(Backend.TRITON)


def case(batch=2, labels=21, dims=5, points=1000, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(batch, labels, points, generator=generator)
    features = 3 * torch.rand(batch, dims, points, generator=generator)
    return {"values": values.to("cuda", dtype), "features": features.cuda()}


@each_dtype
@pytest.mark.parametrize("sample", samples_of(OP).samples, ids=lambda s: s.why)
def test_the_samples_of_the_op(dtype, sample):
    generic.test_as_accurate_as_pytorch(OP, triton, dtype, sample)


@pytest.mark.parametrize("dims", range(1, triton_config.MAX_DIMS + 1))
@pytest.mark.parametrize("labels", (1, 16, 21, 33, 150))
def test_every_tile(labels: int, dims: int):
    table, names = samples_of(OP), ("values", "features")
    values = case(labels=labels, dims=dims)
    with triton(), poisoned_empty():
        ours, our_grads = forward_and_gradients(gaussian_filter, values, names)
    peer, peer_grads = forward_and_gradients(table.peer, values, names)
    double = {k: v.double() for k, v in values.items()}
    truth, true_grads = forward_and_gradients(table.peer, double, names)
    assert_as_accurate(ours, peer, truth)
    for name in names:
        assert_as_accurate(our_grads[name], peer_grads[name], true_grads[name], what=name)


@pytest.mark.parametrize("workload", samples_of(OP).cpu_workloads, ids=lambda w: w.name)
def test_real_sizes(workload):
    from fastseg.testing import Maker

    values = workload.inputs(Maker(torch.float32, "cuda"), torch.contiguous_format)
    with triton():
        ours = gaussian_filter(**values)
    with use_backend(Backend.REFERENCE):
        peer = gaussian_filter(**values)
        truth = gaussian_filter(**{k: v.double() for k, v in values.items()})
    assert_as_accurate(ours, peer, truth)


def test_is_chosen():
    values = case()
    assert choose(OP, "forward", tuple(values.values())) is triton_filter


def step(values):
    out, grads = forward_and_gradients(gaussian_filter, values, ("values", "features"))
    return [out.detach(), *grads.values()]


@each_dtype
def test_the_same_bits_every_time(dtype, deterministic):
    values = case(dtype=dtype)
    with triton():
        first = step(values)
        for _ in range(3):
            assert all(map(torch.equal, first, step(values)))


def test_in_a_cuda_graph(captured):
    """Captured once, replayed on other values: other points in another order."""
    values, others = case(), {k: v.flip(2) * 1.5 for k, v in case().items()}
    grad = torch.rand_like(values["values"])

    def run(values):
        backward = torch.ops.fastseg.gaussian_filter_backward
        with triton():
            return [gaussian_filter(**values), *backward(grad, *values.values())]

    graph, results = captured(lambda: run(values))
    for name, tensor in values.items():
        tensor.copy_(others[name])
    graph.replay()
    assert all(map(torch.equal, results, run(others)))


def test_on_the_current_stream(on_a_busy_stream):
    values = case()
    with triton():
        expected = step(values)
        late = {k: torch.zeros_like(v) for k, v in values.items()}
        with on_a_busy_stream():
            for name, tensor in late.items():
                tensor.copy_(values[name])
            ours = step(late)
    assert all(map(torch.equal, ours, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one():
    values = case()
    with triton():
        expected, ours = step(values), step({k: v.to("cuda:1") for k, v in values.items()})
    assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in ours)
    assert all(map(torch.equal, (x.to("cuda:0") for x in ours), expected))


def test_autocast_changes_nothing():
    values = case()
    with triton():
        expected = step(values)
        with torch.autocast("cuda", torch.bfloat16):
            assert all(map(torch.equal, step(values), expected))


def test_more_than_2_to_the_31_elements():
    """The last labels of many get what they get alone."""
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free GPU memory")
    points = (1 << 21) + 5000
    features = torch.arange(points, device="cuda", dtype=torch.float32)[None, None]
    values = torch.empty(1, 1024, points, device="cuda", dtype=torch.bfloat16).normal_()
    with triton():
        ours = gaussian_filter(values, features)[:, -64:].clone()
        assert torch.equal(ours, gaussian_filter(values[:, -64:].contiguous(), features))


def test_compiled():
    values = inputs(samples_of(OP).samples[0])

    @torch.compile(fullgraph=True)
    def function(values, features):
        return gaussian_filter(values.relu(), features) * 2

    with triton():
        expected = gaussian_filter(values["values"].relu(), values["features"]) * 2
        torch.testing.assert_close(function(**values), expected)
