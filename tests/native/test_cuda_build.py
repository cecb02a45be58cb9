"""nvcc compiles every .cu for every architecture we ship; no kernel spills, and what each needs is
on record (csrc/resources.json), so that a change that costs registers is seen."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from testing_build import ROOT

sys.path.append(str(ROOT / "tools"))
import cuda_resources

SOURCES = sorted(ROOT.glob("csrc/*/*_cuda.cu"))
NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")


@pytest.fixture(scope="module")
def recorded():
    return json.loads(cuda_resources.TABLE.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", cuda_resources.ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_resources_of_kernels(source, architecture, recorded):
    measured = cuda_resources.measure(NVCC, [source], (architecture,))
    assert measured, "no kernels in the compiler's report"
    for kernel, by_architecture in measured.items():
        resources = by_architecture[architecture]
        assert resources["spill_bytes"] == 0, f"{kernel} spills: {resources}"
        assert resources["stack_bytes"] == 0, f"{kernel} has an array in local memory: {resources}"
        if recorded["nvcc"] == cuda_resources.nvcc_release(NVCC):
            expected = recorded["kernels"].get(kernel, {}).get(architecture)
            assert resources == expected, (
                f"{kernel}: recorded {expected}; if the change is meant, run "
                "'python tools/cuda_resources.py --update'"
            )


def test_every_kernel_is_on_record_for_every_architecture(recorded):
    for kernel, by_architecture in recorded["kernels"].items():
        assert sorted(by_architecture) == sorted(cuda_resources.ARCHITECTURES), kernel
