"""Benchmarks of gaussian_filter: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "gaussian_filter"


def test_gaussian_filter(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
