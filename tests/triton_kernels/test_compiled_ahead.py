"""Every Triton kernel compiled for three architectures: what the assembler made of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# So that two programs fit a multiprocessor: bytes of shared memory; 255 registers for each of the
# 128 threads fit anyway.
SHARED_BYTES = {"sm_80": 164 * 1024 // 2 - 1024, "sm_90": 113 * 1024, "sm_100": 113 * 1024}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Compiled in a process of its own, which does not interpret, and not from a cache."""
    cache = tmp_path_factory.mktemp("triton")
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("TRITON_INTERPRET", None)
    script = "import json, triton_resources; print(json.dumps(triton_resources.measure()))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT / "tools",
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rows(measured: dict, *words: str):
    found = [
        (f"{kernel}, {architecture}", architecture, numbers)
        for kernel, architectures in measured.items()
        for architecture, numbers in architectures.items()
        if all(w in kernel.split() or kernel.startswith(w) for w in words)
    ]
    assert found
    return found


def test_nothing_spills_and_two_programs_fit_a_multiprocessor(measured):
    for what, architecture, numbers in rows(measured):
        assert numbers["stack_bytes"] == 0, what
        assert numbers["registers"] <= 255, what
        assert numbers["shared_bytes"] <= SHARED_BYTES[architecture], what


def test_programs_of_the_gaussian_filter_on_a_multiprocessor(measured):
    """So many at least: they hide the latency of exp2."""
    kinds = (
        (("16", "labels,"), 4),
        (("32", "labels,", "5"), 4),
        (("32", "labels,", "8"), 3),
        (("64", "labels,"), 3),
    )
    for words, programs in kinds:
        for what, architecture, numbers in rows(measured, "gaussian filter", *words):
            if architecture != "sm_80":
                assert numbers["registers"] <= 65536 // (programs * 128) // 8 * 8, what
                assert numbers["shared_bytes"] <= 226 * 1024 // programs, what


def test_tensor_cores_multiply(measured):
    instruction = {"sm_80": "mma", "sm_90": "wgmma", "sm_100": "tcgen05"}
    kinds = (
        ("conv", "bf16"),
        ("gradient", "bf16"),
        ("conv", "tf32"),
        ("gradient", "tf32"),
        ("gaussian filter",),
        ("gaussian feature gradient",),
    )
    for words in kinds:
        for what, architecture, numbers in rows(measured, *words):
            assert numbers[instruction[architecture]] > 0, what


def test_loads_run_ahead(measured):
    for what, architecture, numbers in rows(measured, "pixels,"):
        # Some before the loop and some in it: the loop is a pipeline.
        kind = "async_copies" if architecture == "sm_80" else "tma_loads"
        assert numbers[kind] >= 4, what
    for words in ("gaussian filter", "gaussian feature gradient"):
        for what, _, numbers in rows(measured, words):
            assert numbers["async_copies"] >= 4, what


def test_factors_go_from_shared_memory_to_the_tensor_cores(measured):
    for words in (("conv", "bf16"), ("conv", "tf32")):
        for what, architecture, numbers in rows(measured, *words):
            if architecture != "sm_80":
                assert numbers["matrix_loads"] == 0, what


def test_as_recorded(measured):
    """tools/triton_resources.py --update writes the record, after a change that is meant."""
    import triton

    recorded = json.loads((Path(__file__).parent / "resources.json").read_text())
    if recorded["triton"] != triton.__version__:
        pytest.skip(f"recorded with triton {recorded['triton']}, this is {triton.__version__}")
    assert measured == recorded["kernels"]
