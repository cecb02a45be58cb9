"""Benchmarks of upsample_taps: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_taps"


def test_upsample_taps(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
