"""Benchmarks of upsample_cross_entropy: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_cross_entropy"


def test_upsample_cross_entropy(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
