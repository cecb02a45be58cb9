"""Benchmarks of upsample_argmax: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_argmax"


def test_upsample_argmax(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
