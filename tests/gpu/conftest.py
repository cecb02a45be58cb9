"""Tests on a GPU run the generic tests of tests/ops on its tensors."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "ops"))

import op_cases
import torch

# cuBLAS is deterministic with this alone, and reads it once.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside, op_cases.inputs() makes CUDA tensors."""
    monkeypatch.setattr(op_cases, "DEVICE", "cuda")


@pytest.fixture
def deterministic() -> Iterator[None]:
    """torch.use_deterministic_algorithms(True) inside."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@contextlib.contextmanager
def _behind_a_long_kernel() -> Iterator[None]:
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        yield
    stream.synchronize()


@pytest.fixture
def on_a_busy_stream() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context: a stream of its own with a long kernel under way, waited for at the end. What runs
    on another stream meanwhile sees inputs that are not written yet."""
    return _behind_a_long_kernel


@pytest.fixture
def captured() -> Callable[[Callable[[], list[torch.Tensor]]], tuple]:
    """captured(function): a CUDA graph of it and its results, after a warm-up elsewhere than on the
    default stream."""

    def capture(function: Callable[[], list[torch.Tensor]]) -> tuple:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = function()
        return graph, results

    return capture
