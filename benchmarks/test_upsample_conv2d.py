"""Benchmarks of upsample_conv2d: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_conv2d"


def test_upsample_conv2d(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
