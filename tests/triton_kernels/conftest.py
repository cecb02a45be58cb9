"""The Triton kernels without a GPU: in Triton's interpreter, and compiled ahead of time."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    if importlib.util.find_spec("triton") is None:
        reason = "triton is not installed (pip install -c constraints.txt triton)"
    elif os.environ.get("TRITON_INTERPRET") != "1":
        reason = "runs with TRITON_INTERPRET=1 in the environment"
        ours = [item for item in ours if "interpreter" in item.keywords]
    else:
        return
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton 3.7.1's interpreter multiplies the bits of bfloat16 numbers as if they were integers:
    here it gets them in float32."""
    from triton.language import bfloat16, float32
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    create_dot = InterpreterBuilder.create_dot

    def widened(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != bfloat16:
            return handle
        bits = handle.data.astype(numpy.uint32) << 16
        return TensorHandle(bits.view(numpy.float32), float32)

    def exact(self, a, b, *rest):
        return create_dot(self, widened(a), widened(b), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", exact)
    yield


@pytest.fixture
def tensor_core_sums(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter multiplies in float32. Here its products are a tensor core's: factors cut to
    TF32, and the sum rounded towards zero after every eight products (Fasi, Higham, Mikaitis,
    Pranesh, "Numerical behavior of NVIDIA tensor cores", 2021)."""
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def cut(x: numpy.ndarray) -> numpy.ndarray:
        return (x.view(numpy.uint32) & numpy.uint32(0xFFFFE000)).view(numpy.float32)

    def towards_zero(x: numpy.ndarray) -> numpy.ndarray:
        rounded = x.astype(numpy.float32)
        return numpy.where(
            abs(rounded) > abs(x), numpy.nextafter(rounded, numpy.float32(0)), rounded
        )

    def product(a: numpy.ndarray, b: numpy.ndarray, total: numpy.ndarray) -> numpy.ndarray:
        for k in range(0, a.shape[1], 8):
            part = a[:, k : k + 8].astype(numpy.float64) @ b[k : k + 8].astype(numpy.float64)
            total = towards_zero(total + part)
        return total

    def create_dot(self, a, b, d, *rest):
        factors = (cut(numpy.ascontiguousarray(f.data)) for f in (a, b))
        return TensorHandle(product(*factors, d.data), d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    yield
