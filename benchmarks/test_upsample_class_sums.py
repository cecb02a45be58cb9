"""Benchmarks of upsample_class_sums: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_class_sums"


def test_upsample_class_sums(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
