"""Benchmarks of pyramid_pool: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "pyramid_pool"


def test_pyramid_pool(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
