"""Benchmarks of upsample_confusion_matrix: the workloads of its samples.py."""

from collections.abc import Callable

from fastseg.bench import Case

OP = "upsample_confusion_matrix"


def test_upsample_confusion_matrix(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
