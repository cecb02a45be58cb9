"""Benchmarks of window_filter: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "window_filter"


def test_window_filter(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
