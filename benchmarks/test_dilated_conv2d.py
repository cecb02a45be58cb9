"""Benchmarks of dilated_conv2d: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "dilated_conv2d"


def test_dilated_conv2d(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
