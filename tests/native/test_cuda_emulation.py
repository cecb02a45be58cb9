"""Every CUDA kernel on the CPU (csrc/testing/cuda_on_cpu.h), on the samples of its op and on those
that tests/ops/cuda_samples.py has for it. A new twin is found by its *_cuda.cu."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import test_all_ops as generic
import torch
from op_cases import DTYPES, each_cuda_sample, forward_and_gradients, inputs, samples_of

from fastseg import Backend, BackendUnavailable, use_backend
from fastseg.testing import poisoned_empty


@contextlib.contextmanager
def _emulated(core: ModuleType, order: int) -> Iterator[None]:
    """The native backend, which must launch kernels; skips what it does not take."""
    core.cuda_on_cpu.set_order(order)
    launches = core.cuda_on_cpu.launches()
    try:
        with use_backend(Backend.NATIVE):
            yield
    except BackendUnavailable as error:
        pytest.skip(str(error))
    assert core.cuda_on_cpu.launches() > launches, "no CUDA kernel ran"


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@each_cuda_sample
def test_as_accurate_as_pytorch(emulated_core, op, sample, dtype):
    generic.test_as_accurate_as_pytorch(op, lambda: _emulated(emulated_core, 1), dtype, sample)


@each_cuda_sample
def test_same_bits_in_any_order_of_blocks_and_threads(emulated_core, op, sample):
    table = samples_of(op)
    values = inputs(sample, torch.float32)

    def bits(order: int) -> list[torch.Tensor]:
        with _emulated(emulated_core, order), poisoned_empty():
            result, grads = forward_and_gradients(table.function, values, table.differentiable)
        return [
            t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (result, *grads.values())
        ]

    first = bits(0)
    for order in (1, 2):
        assert all(map(torch.equal, first, bits(order))), f"order {order}"
