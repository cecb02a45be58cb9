"""The test build of the native core: CUDA kernels on the CPU, CPU kernels with 64-byte vectors."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fastseg import _native
from fastseg._version import __version__

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "ops"))  # op_cases and the generic tests


def configure_testing_build(*options: str) -> Path:
    """Configures CMake for the test build in build/testing*; building again is incremental."""
    import pybind11

    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, the test build needs it")
    sanitizers = os.environ.get("FASTSEG_SANITIZE", "")
    build = ROOT / "build" / ("testing-sanitized" if sanitizers else "testing")
    build.mkdir(parents=True, exist_ok=True)
    defines = {
        "CMAKE_BUILD_TYPE": "Release",
        "FASTSEG_TESTING": "ON",
        "FASTSEG_CUDA": "OFF",
        "FASTSEG_VERSION": __version__,
        "FASTSEG_SANITIZE": sanitizers,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    arguments = [f"-D{name}={value}" for name, value in defines.items()]
    run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *arguments, *options])
    return build


def run(command: list[Any], **rest: Any) -> str:
    """Output of a command; the test fails with it when the command does."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # a sanitizer's
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, **rest
    )
    if done.returncode != 0:
        pytest.fail(f"{command} failed:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}", False)
    return done.stdout


@pytest.fixture(scope="session")
def testing_core() -> ModuleType:
    """The module of the test build, beside (not instead of) fastseg._C."""
    assert _native._C is not None, _native.load_error
    if _native._C.best_cpu_level() is _native._C.CpuLevel.baseline and os.uname().machine in (
        "x86_64",
        "AMD64",
    ):
        pytest.skip("the test build needs AVX2, this processor has none")
    build = configure_testing_build()
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


class _CudaTwins:
    """A core whose cpu_<function>(..., threads) calls cuda_<function>(..., stream 0): CPU tensors
    go through the CUDA kernels. This is why the two take the same arguments but the last."""

    def __init__(self, module: ModuleType):
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cpu_") and name != "cpu_level":
            return self._twin(getattr(self._module, "cuda_" + name.removeprefix("cpu_")))
        value = getattr(self._module, name)
        return _CudaTwins(value) if isinstance(value, ModuleType) else value

    @staticmethod
    def _twin(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: function(*args[:-1], 0)


@pytest.fixture
def emulated_core(
    testing_core: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModuleType]:
    """Inside, the native backend sends CPU tensors through the CUDA kernels."""
    monkeypatch.setattr(_native, "_C", _CudaTwins(testing_core))
    yield testing_core
    testing_core.cuda_on_cpu.set_order(0)
