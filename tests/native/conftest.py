"""The test build of the native core: CUDA kernels on the CPU, CPU kernels with 64-byte vectors."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from testing_build import ROOT, native_testing_build, run

from fastseg import _native

sys.path.append(str(ROOT / "tests" / "ops"))  # op_cases and the generic tests


@pytest.fixture(scope="session")
def testing_core() -> ModuleType:
    """The module of the test build, beside (not instead of) fastseg._C."""
    assert _native._C is not None, _native.load_error
    if _native._C.best_cpu_level() is _native._C.CpuLevel.baseline and os.uname().machine in (
        "x86_64",
        "AMD64",
    ):
        pytest.skip("the test build needs AVX2, this processor has none")
    with native_testing_build() as build:
        run(["cmake", "--build", build, "--target", "testing_core"])
    (path,) = (build / "testing").glob("_C.*")
    spec = importlib.util.spec_from_file_location("fastseg_testing._C", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wide_core(testing_core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Inside, the native backend's CPU kernels are those with 64-byte vectors."""
    monkeypatch.setattr(_native, "_C", testing_core)
    return testing_core


@pytest.fixture
def emulated_core(
    testing_core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """Inside, native backends take CPU tensors for CUDA tensors: their CUDA kernels run."""
    monkeypatch.setattr(_native, "_C", testing_core)
    monkeypatch.setattr(_native, "on_cuda", lambda x: True)
    monkeypatch.setattr(_native, "stream", lambda x: 0)
    yield testing_core
    testing_core.cuda_on_cpu.set_order(0)
