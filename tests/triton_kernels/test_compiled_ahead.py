"""Every Triton kernel compiled for three architectures: what the assembler made of it.

All that a launch may ask for is on record, which holds as long as the kernels and their tiles are
those that it was made of; a selection is compiled here again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# So that two programs fit a multiprocessor: bytes of shared memory; 255 registers for each of the
# 128 threads fit anyway.
SHARED_BYTES = {"sm_80": 164 * 1024 // 2 - 1024, "sm_90": 113 * 1024, "sm_100": 113 * 1024}


# ptxas keeps gaussian_filter at 72 registers there, for seven programs on a multiprocessor, and two
# values of some tiles elsewhere.
STACK_BYTES = {("gaussian filter", "sm_100"): 8}

RECORD = json.loads((Path(__file__).parent / "resources.json").read_text())


def in_tools(expression: str, cache: Path) -> Any:
    """What an expression over tools/triton_resources.py gives in a process of its own, which does
    not interpret, and does not compile from a cache."""
    environment = {
        **os.environ,
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    environment.pop("TRITON_INTERPRET", None)
    script = f"import json, triton_resources as t; print(json.dumps({expression}))"
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


@pytest.fixture(scope="module")
def measured() -> dict:
    return RECORD["kernels"]


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
        kernel = " ".join(what.split()[:2])
        assert numbers["stack_bytes"] <= STACK_BYTES.get((kernel, architecture), 0), what
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


UPDATE = "after a change that is meant, run 'python tools/triton_resources.py --update'"


def test_everything_that_ships_is_on_record(tmp_path):
    """The record was made of these kernels and tiles, and misses none of them."""
    sources, names = in_tools(
        "[t.sources(), {f'sm_{a}': sorted(k.name for k in t.kernels(a)) for a in t.ARCHITECTURES}]",
        tmp_path,
    )
    assert RECORD["sources"] == sources, UPDATE
    for architecture, kernels in names.items():
        recorded = [k for k, numbers in RECORD["kernels"].items() if architecture in numbers]
        assert sorted(recorded) == kernels, UPDATE


def test_as_recorded(tmp_path):
    import triton

    if RECORD["triton"] != triton.__version__:
        pytest.skip(f"recorded with triton {RECORD['triton']}, this is {triton.__version__}")
    again = in_tools("t.measure(often=True)", tmp_path)
    assert len(again) >= 20
    for kernel, architectures in again.items():
        for architecture, numbers in architectures.items():
            assert numbers == RECORD["kernels"][kernel][architecture], f"{kernel}: {UPDATE}"
