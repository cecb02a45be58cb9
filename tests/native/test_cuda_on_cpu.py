"""The emulation itself (csrc/testing/cuda_on_cpu.h): it finds what it is there to find."""

from __future__ import annotations

import pytest
import torch


def _run(core, kernel: str, blocks: int = 3) -> torch.Tensor:
    out = torch.full((64 * blocks,), -7, dtype=torch.int32)
    core.cuda_on_cpu.run(kernel, out.data_ptr(), blocks)
    return out.view(blocks, 64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_emulation_runs_barriers_and_warp_operations(emulated_core, seed):
    emulated_core.cuda_on_cpu.set_order(seed)
    neighbour = (torch.arange(64, dtype=torch.int32) + 1) % 64
    assert torch.equal(_run(emulated_core, "neighbour"), neighbour.expand(3, 64))
    assert (_run(emulated_core, "warp") == 2016 + 2 * 16 * 1000).all()


def test_emulation_shows_a_missing_barrier(emulated_core):
    emulated_core.cuda_on_cpu.set_order(1)
    assert not torch.equal(_run(emulated_core, "race"), _run(emulated_core, "neighbour"))


def test_emulation_poisons_shared_memory_in_every_block(emulated_core):
    expected = (torch.arange(64) == 5).int().expand(3, 64)
    assert torch.equal(_run(emulated_core, "unwritten"), expected)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        ("divergent", "divergent barrier, block 0: .*10 threads wait at the barrier"),
        ("absent lane", "deadlock, block 0: .*1 threads wait at the barrier"),
        ("misaligned", "misaligned access of 16 bytes"),
        ("too many threads", "invalid block of 2048 threads"),
        ("too much shared", "more than 48 KB"),
    ],
)
def test_emulation_reports_errors_and_goes_on(emulated_core, kernel, message):
    with pytest.raises(RuntimeError, match=message):
        _run(emulated_core, kernel, blocks=1)
    assert (_run(emulated_core, "warp") == 2016 + 2 * 16 * 1000).all()
