"""What holds for every op with CUDA kernels, on a GPU: numbers, bits, graphs, streams, devices,
sizes beyond 2^31, autocast, torch.compile. A new op is found by its *_cuda.cu; its large inputs are
a row in large_inputs.py."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import op_cases
import pytest
import test_all_ops as generic
import test_all_ops_graphs as graphs
import torch
from large_inputs import LARGE
from op_cases import (
    DTYPES,
    each_cuda_sample,
    few_cuda_samples,
    has_cuda_twin,
    inputs,
    recorded_calls,
    samples_of,
    tensors,
)

from fastseg import Backend, BackendUnavailable, use_backend
from fastseg.backends import unsupported_reasons
from fastseg.registry import ALL_OPS, OpSpec
from fastseg.testing import Maker, Sample

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_gpu")]

TWINS = [op for name, op in sorted(ALL_OPS.items()) if has_cuda_twin(op)]
LAYOUTS = (torch.contiguous_format, torch.channels_last)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@contextlib.contextmanager
def _native() -> Iterator[None]:
    try:
        with use_backend(Backend.NATIVE):
            yield
    except BackendUnavailable as error:
        pytest.skip(str(error))


# One step of training: result and gradients, without anything that a graph cannot capture.


def _gradient_for(op: OpSpec, values: dict[str, Any]) -> torch.Tensor | None:
    if not samples_of(op).differentiable:
        return None
    result = samples_of(op).function(**values)
    grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    return torch.empty_like(result).copy_(grad)


def _step(op: OpSpec, values: dict[str, Any], grad: torch.Tensor | None) -> list[torch.Tensor]:
    names = [n for n in samples_of(op).differentiable if values.get(n) is not None]
    leaves = [values[n].detach().requires_grad_() for n in names]
    result = samples_of(op).function(**{**values, **dict(zip(names, leaves, strict=True))})
    grads = torch.autograd.grad(result, leaves, grad) if names else ()
    return [result.detach(), *grads]


def _same(ours: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, generic._bits(*ours), generic._bits(*expected)))


def _other_inputs(sample: Sample, dtype: torch.dtype) -> dict[str, Any]:
    return sample.inputs(Maker(dtype, op_cases.DEVICE, seed=1))


def _copy(values: dict[str, Any], source: dict[str, Any]) -> None:
    for name, x in values.items():
        if isinstance(x, torch.Tensor):
            x.copy_(source[name])


# Numbers.


@each_dtype
@each_cuda_sample
def test_as_accurate_as_pytorch(op, sample, dtype):
    generic.test_as_accurate_as_pytorch(op, _native, dtype, sample)


def _workloads() -> Iterator[Any]:
    """Real sizes: the workloads for CPUs, which PyTorch computes in float64 in no time on a GPU."""
    for op in TWINS:
        for workload in samples_of(op).cpu_workloads:
            for layout in LAYOUTS:
                name = f"{workload.name}, {layout}".replace("torch.", "")
                sample = Sample(name, lambda make, w=workload, f=layout: w.inputs(make, f))
                yield pytest.param(op, sample, id=f"{op.name}-{name}")


@pytest.mark.parametrize("dtype", DTYPES[::2], ids=("float32", "bfloat16"))
@pytest.mark.parametrize(("op", "sample"), list(_workloads()))
def test_as_accurate_as_pytorch_on_real_sizes(op, sample, dtype):
    generic.test_as_accurate_as_pytorch(op, _native, dtype, sample)


@few_cuda_samples
def test_native_kernels_are_chosen_wherever_they_are_on_a_cpu(op, sample):
    functions = {f"{op.name}{suffix}": f for suffix, f in op.functions.items()}
    for function, args in recorded_calls(op, sample):
        implementation = functions[function._opname].implementation
        names = [a.name for a in function._schema.arguments]
        named = dict(zip(names, args, strict=True))
        on_cpu = {k: a.cpu() if isinstance(a, torch.Tensor) else a for k, a in named.items()}
        reason = unsupported_reasons(op, implementation, named)[Backend.NATIVE]
        assert reason == unsupported_reasons(op, implementation, on_cpu)[Backend.NATIVE]


# Bits.


@pytest.mark.parametrize("dtype", DTYPES[::2], ids=("float32", "bfloat16"))
@each_cuda_sample
def test_same_bits_again_under_deterministic_algorithms(op, sample, dtype, deterministic):
    values = inputs(sample, dtype)
    with _native():
        grad = _gradient_for(op, values)
        first = _step(op, values, grad)
        for _ in range(3):
            assert _same(_step(op, values, grad), first)


@few_cuda_samples
def test_in_a_cuda_graph(op, sample, captured):
    """Captured once, replayed on other values."""
    values, others = inputs(sample), _other_inputs(sample, torch.float32)
    with _native():
        grad = _gradient_for(op, values)
        graph, results = captured(lambda: _step(op, values, grad))
        _copy(values, others)
        graph.replay()
        assert _same(results, _step(op, others, grad))


def test_the_first_launch_of_a_process_inside_a_capture():
    """The kernels are then loaded while the graph is captured, in CUDA's strictest mode."""
    program = (
        "import torch, fastseg\n"
        "x = torch.randn(1, 3, 8, 8, device='cuda')\n"
        "graph = torch.cuda.CUDAGraph()\n"
        "with fastseg.use_backend('native'), torch.cuda.graph(graph):\n"
        "    y = fastseg.upsample_bilinear(x, size=(16, 16))\n"
        "graph.replay()\n"
        "z = torch.nn.functional.interpolate(x, size=(16, 16), mode='bilinear')\n"
        "torch.testing.assert_close(y, z)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@few_cuda_samples
def test_on_the_current_stream(op, sample, on_a_busy_stream):
    """Behind a long kernel, then a copy to its inputs, on a stream of its own."""
    values, others = inputs(sample), _other_inputs(sample, torch.float32)
    with _native():
        grad = _gradient_for(op, others)
        expected = _step(op, others, grad)
        with on_a_busy_stream():
            _copy(values, others)
            ours = _step(op, values, grad)
        assert _same(ours, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@few_cuda_samples
def test_on_a_device_that_is_not_the_current_one(op, sample):
    values = inputs(sample)
    with _native():
        grad = _gradient_for(op, values)
        expected = _step(op, values, grad)
        there = {k: v.to("cuda:1") if isinstance(v, torch.Tensor) else v for k, v in values.items()}
        ours = _step(op, there, None if grad is None else grad.to("cuda:1"))
        assert torch.cuda.current_device() == 0
        assert all(x.device.index == 1 for x in ours)
        assert _same([x.to("cuda:0") for x in ours], expected)


# Sizes.


def test_every_op_has_large_inputs():
    assert {op.name for op in TWINS} <= set(LARGE)


@pytest.mark.parametrize(
    ("op", "make"),
    [
        pytest.param(op, make, id=f"{op.name}-{why}")
        for op in TWINS
        for why, make in LARGE.get(op.name, {}).items()
    ],
)
def test_more_than_2_to_the_31_elements(op, make):
    """The last image of a large batch gets what it gets alone; counts add up over the images."""
    if torch.cuda.mem_get_info()[0] < 64 << 30:
        pytest.skip("needs 64 GiB of free GPU memory")
    function, values = samples_of(op).function, make()
    images = range(tensors(values)[0].shape[0])

    def image(i: int) -> dict[str, Any]:
        return {k: v[i : i + 1] if _has_batch(v) else v for k, v in values.items()}

    with _native():
        last = function(**image(images[-1]))
        if not _has_batch(last):
            assert torch.equal(function(**values), sum(function(**image(i)) for i in images))
            return
        grad = None
        if samples_of(op).differentiable:
            grad = torch.empty_like(last.expand(len(images), *last.shape[1:])).normal_()
        ours = [x[-1:].clone() for x in _step(op, values, grad) if _has_batch(x)]
        alone = _step(op, image(images[-1]), None if grad is None else grad[-1:])
    for x, y in zip(ours, filter(_has_batch, alone), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=2**-7, atol=2**-7)


def _has_batch(value: Any) -> bool:
    """Maps [N, C, H, W], labels [N, H, W] and cells [N, C, cells]; weights and matrices have none,
    those of a depthwise convolution [C, 1, kernel_h, kernel_w] included."""
    return isinstance(value, torch.Tensor) and value.dim() > 2 and value.shape[1] > 1


# PyTorch's machinery.


@few_cuda_samples
def test_autocast(op, sample):
    if op.autocast != "input dtype":
        pytest.skip("runs in autocast's dtype")
    values = inputs(sample)
    with _native():
        grad = _gradient_for(op, values)
        expected = _step(op, values, grad)
        with torch.autocast("cuda", torch.bfloat16):
            assert _same(_step(op, values, grad), expected)


@few_cuda_samples
def test_compile_with_inductor(op, sample):
    torch._dynamo.reset()
    with _native():
        graphs.test_compile_with_inductor(op, sample)
