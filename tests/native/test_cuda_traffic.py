"""What the CUDA kernels send to the memory over what they need, at real sizes on sampled blocks.

    python -m pytest tests/native/test_cuda_traffic.py -s    prints the table of benchmarks/NOTES.md

The emulation counts (csrc/testing/traffic.h). Of loads, a sector counts once for each block that
reads it, as if L1 were large enough for a block; of stores, once for each request.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cuda_calls import launches
from traffic_cases import CASES, Case

BLOCKS = 4


def _measured(core: Any, case: Case) -> dict[str, float]:
    every = launches(core, case.run, BLOCKS)
    (launch,) = (x for x in every if x["kernel"].split("<")[0] == case.kernel)
    if not launch["loads"]["requests"] + launch["stores"]["requests"]:
        pytest.skip("accesses are counted where GCC compiles, without another sanitizer")
    return {
        "loads": launch["loads"]["by_blocks"] / max(launch["loads"]["needed"], 1),
        "stores": launch["stores"]["sent"] / max(launch["stores"]["needed"], 1),
        "partial": launch["stores"]["partial"] / max(launch["stores"]["sent"], 1),
        "conflicts": launch["wavefronts"] / max(launch["shared_groups"], 1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_traffic_is_within_its_budget(emulated_core, case):
    measured = _measured(emulated_core, case)
    print(
        f"\n| {case} | {measured['loads']:.2f} | {measured['stores']:.2f} | "
        f"{measured['partial']:.0%} | {measured['conflicts']:.2f} |"
    )
    for name, value in measured.items():
        limit = getattr(case, name)
        assert value <= limit, f"{case.kernel}: {name} {value:.2f}, the budget is {limit}"


def test_traffic_is_counted(emulated_core):
    """A kernel whose 64 threads each write one int, and read a neighbour's in shared memory."""
    out = torch.zeros(64, dtype=torch.int32)

    def run() -> None:
        emulated_core.cuda_on_cpu.add_memory(out.data_ptr(), out.nbytes)
        emulated_core.cuda_on_cpu.run("neighbour", out.data_ptr(), 1)

    (launch,) = launches(emulated_core, run, 1)
    if launch["stores"]["requests"] == 0:
        pytest.skip("accesses are counted where GCC compiles, without another sanitizer")
    assert launch["blocks"] == launch["sampled"] == 1 and launch["threads"] == 64
    # Two warps write 128 bytes each; each also writes to and reads from shared memory.
    sectors = 8 + (out.data_ptr() % 32 != 0)
    assert launch["stores"]["requests"] == 2 and launch["stores"]["needed"] == sectors
    assert launch["loads"]["requests"] == 0
    assert launch["shared_groups"] == launch["wavefronts"] == 4
    assert launch["kernel"] == "neighbour_kernel"
