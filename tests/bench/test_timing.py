"""The clock and the memory gauge."""

from __future__ import annotations

import sys
import time

import pytest
import torch

from fastseg.bench import timing
from fastseg.bench.memory import peak_extra_bytes
from fastseg.bench.timing import Timing, Variant, time_interleaved


def test_rounds_are_interleaved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP_CALLS", 1)
    monkeypatch.setattr(timing, "MAX_REPEATS", 1)
    calls: list[str] = []
    variants = [Variant(name, lambda _, name=name: calls.append(name)) for name in "abc"]
    timings = time_interleaved(variants, device="cpu", budget_s=0.0, min_rounds=3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"
    assert all(len(t.seconds) == len(t.process_seconds) == 3 for t in timings.values())


def test_setup_is_not_timed() -> None:
    variant = Variant("x", run=lambda state: state, setup=lambda: time.sleep(0.05))
    timings = time_interleaved([variant], device="cpu", budget_s=0.0, min_rounds=2)
    assert max(timings["x"].seconds) < 0.04


def test_fast_variants_are_sampled_more_often() -> None:
    variants = [Variant("slow", lambda _: time.sleep(0.02)), Variant("fast", lambda _: None)]
    timings = time_interleaved(variants, device="cpu", budget_s=0.0, min_rounds=2)
    assert len(timings["slow"].seconds) == 2
    assert len(timings["fast"].seconds) == 2 * timing.MAX_REPEATS


def test_budget_adds_rounds() -> None:
    variant = Variant("x", lambda _: time.sleep(0.005))
    timings = time_interleaved([variant], device="cpu", budget_s=0.1, min_rounds=1)
    assert 2 <= len(timings["x"].seconds) <= 21


def test_summary() -> None:
    summary = Timing((4.0, 1.0, 3.0, 2.0, 100.0), (2.0,) * 5).summary()
    assert summary == {
        "median_s": 3.0,
        "q1_s": 2.0,
        "q3_s": 4.0,
        "min_s": 1.0,
        "samples": 5,
        "process_median_s": 2.0,
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_counts_temporaries() -> None:
    def run(_: object) -> torch.Tensor:
        torch.ones(16 << 20)  # 64 MiB, freed before the next line
        return torch.ones(1 << 18)

    variant = Variant("x", run)
    run(None)
    peak = peak_extra_bytes(variant, "cpu")
    if peak is None:
        pytest.skip("the peak of the resident set cannot be reset here")
    assert 64 << 20 <= peak + (1 << 20) and peak <= 72 << 20
