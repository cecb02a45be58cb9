"""Benchmarks of permutohedral_filter: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "permutohedral_filter"


def test_permutohedral_filter(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
