"""Ops on fake CUDA tensors: shapes, strides and device, as torch.compile asks for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import each_sample, recorded_calls
from torch._subclasses.fake_tensor import FakeTensorMode


def _on_cuda(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


@each_sample
def test_results_of_an_op_and_its_derivative(op, sample):
    for function, args in recorded_calls(op, sample):
        if not function._schema.returns:
            continue
        expected = function(*args)
        with FakeTensorMode():
            result = function(*map(_on_cuda, args))
        pairs = [(result, expected)]
        if not isinstance(expected, torch.Tensor):
            pairs = list(zip(result, expected, strict=True))
        for fake, real in pairs:
            if real is None:
                assert fake is None
                continue
            assert fake.device.type == "cuda"
            assert fake.shape == real.shape and fake.dtype == real.dtype
            assert fake.stride() == real.stride() or fake.numel() <= 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_torch_itself_cannot_make_cuda_tensors_here():
    """Else the test above would not have been about fake tensors."""
    with pytest.raises((RuntimeError, AssertionError)):
        torch.empty(1, device="cuda")
