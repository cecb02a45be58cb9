"""Benchmarks of upsample_bilinear: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_bilinear"


def test_upsample_bilinear(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
