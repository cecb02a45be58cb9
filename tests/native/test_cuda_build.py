"""nvcc compiles every .cu for every architecture we ship; no kernel spills, and what each needs is
on record (csrc/resources.json), so that a change that costs registers is seen."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
from sass_budgets import BUDGETS
from testing_build import ROOT

sys.path.append(str(ROOT / "tools"))
import cuda_resources
import sass

SOURCES = sorted(ROOT.glob("csrc/*/*_cuda.cu"))
NVCC = shutil.which("nvcc")
pytestmark = pytest.mark.skipif(NVCC is None, reason="nvcc is not on the PATH")


@pytest.fixture(scope="module")
def recorded():
    return json.loads(cuda_resources.TABLE.read_text())


# What the hot loops of the instances that benchmarks/NOTES.md has rows of may take at most on sm_90
# (see tools/sass.py); sass_budgets.py has the others.
FINE_BUDGETS = {
    # Three lines a turn.
    "dilated_conv2d_fwd_bwd_march_kernel<bfloat16_t, 4, false>": {
        "loop": 225,
        "double": 0,
        "early": 0,
    },
    "dilated_conv2d_fwd_bwd_march_kernel<bfloat16_t, 2, true>": {
        "loop": 245,
        "double": 0,
        "early": 0,
    },
    "dilated_conv2d_fwd_bwd_march_kernel<float, 4, false>": {
        "loop": 185,
        "double": 0,
        "first_use": 75,
    },
    # Three and two rows a turn, with the columns' sums behind each.
    "upsample_bilinear_bwd_kernel<bfloat16_t, false, Vectors>": {
        "loop": 1310,
        "prmt": 3,
        "early": 0,
    },
    "upsample_bilinear_bwd_kernel<bfloat16_t, true, Vectors>": {
        "loop": 1130,
        "prmt": 0,
        "early": 0,
    },
    "upsample_taps_fwd_kernel<bfloat16_t, 4, 3>": {"loop": 750, "prmt": 0, "wide": 22},
    "upsample_taps_bwd_kernel<bfloat16_t, 4, 3>": {"loop": 180, "prmt": 0, "first_use": 45},
    "pyramid_pool_fwd_packs_kernel<bfloat16_t>": {"loop": 200, "prmt": 0, "first_use": 50},
}


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
            if architecture == "sm_90":
                _assert_within_budgets(kernel, resources)
            expected = recorded["kernels"].get(kernel, {}).get(architecture, {})
            assert expected, f"{kernel} is not on record"
            common = {name: expected[name] for name in resources if name in expected}
            assert {name: resources[name] for name in common} == common, (
                f"{kernel}: recorded {expected}; if the change is meant, run "
                "'python tools/cuda_resources.py --update'"
            )


def _assert_within_budgets(kernel, resources):
    if "loop" not in resources:
        return  # no disassembler
    budgets = [FINE_BUDGETS.get(kernel, {})]
    if "<double" not in kernel:
        budgets.append(BUDGETS[kernel.split("<")[0]]._asdict())
    for budget in budgets:
        for name, limit in budget.items():
            kept = resources[name] >= limit if name == "first_use" else resources[name] <= limit
            assert kept, f"{kernel}: {name} of its hot loop is {resources[name]}, budget {limit}"


def test_the_record_is_within_the_budgets(recorded):
    for kernel, by_architecture in recorded["kernels"].items():
        _assert_within_budgets(kernel, by_architecture["sm_90"])


def test_every_budget_is_of_a_kernel(recorded):
    assert set(FINE_BUDGETS) <= set(recorded["kernels"])
    assert set(BUDGETS) == {kernel.split("<")[0] for kernel in recorded["kernels"]}


def test_a_longer_loop_is_named():
    kernel = "upsample_taps_fwd_kernel<bfloat16_t, 4, 3>"
    resources = {"loop": 751, "prmt": 0, "wide": 20, "double": 24, "first_use": 30}
    with pytest.raises(AssertionError, match=r"taps_fwd_kernel.*: loop of its hot loop is 751"):
        _assert_within_budgets(kernel, resources)


def test_loops_waits_and_widths_are_read_off_machine_code():
    lines = [
        "/*0000*/ LDC R1, c[0x0][0x28] ;",
        "/*0010*/ LDG.E.128.CONSTANT R4, desc[UR4][R2.64] ;",
        "/*0020*/ IMAD.WIDE R8, R9, 0x4, R2 ;",
        "/*0030*/ PRMT R20, R21, 0x5410, R22 ;",
        "/*0040*/ FFMA R10, R5, R6, R10 ;",
        "/*0050*/ STG.E.U16 desc[UR4][R12.64], R10 ;",
        "/*0060*/ @P0 BRA 0x10 ;",
        "/*0070*/ DADD R14, R14, R16 ;",
        "/*0080*/ BRA 0x80 ;",
    ]
    code = sass.parse("\n".join(lines))
    assert sass.loops(code) == [sass.Loop(1, 6)]
    assert sass.measure(code, 2) == {
        "loop": 6,
        "values": 8,
        "first_use": 3,
        "early": 1,
        "loads": "1x128",
        "stores": "1x16",
        "prmt": 1,
        "wide": 1,
        "double": 1,
    }


def test_every_kernel_is_on_record_for_every_architecture(recorded):
    for kernel, by_architecture in recorded["kernels"].items():
        assert sorted(by_architecture) == sorted(cuda_resources.ARCHITECTURES), kernel
