"""The CMake build behind the tests of the native core (cmake/testing.cmake)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastseg._version import __version__

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def native_testing_build() -> Iterator[Path]:
    """The configured CMake folder of the test build, build/testing*; building again is incremental.

    Inside, no other process (a worker of pytest-xdist) configures or builds it.
    """
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed, the test build needs it")
    sanitizers = os.environ.get("FASTSEG_SANITIZE", "")
    build = ROOT / "build" / ("testing-sanitized" if sanitizers else "testing")
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _configure(build, sanitizers)
        yield build


def _configure(build: Path, sanitizers: str) -> None:
    import pybind11

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
    run(["cmake", "-G", "Ninja", "-S", ROOT, "-B", build, *arguments])


def run(command: list[Any], **rest: Any) -> str:
    """Output of a command; the test fails with it when the command does."""
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # a sanitizer's
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, **rest
    )
    if done.returncode != 0:
        pytest.fail(f"{command} failed:\n{done.stdout[-5000:]}\n{done.stderr[-5000:]}", False)
    return done.stdout
