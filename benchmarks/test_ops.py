"""Benchmarks of every op: the workloads of its samples.py, times dtype, times direction.

The names are those of `fastseg bench`, in a form that pytest's -k takes: `-k pyramid_pool`,
`-k "upsample_argmax and bfloat16"`.
"""

from collections.abc import Callable

from fastseg.bench import Case


def test_op(case: Case, run: Callable[[Case], None]) -> None:
    run(case)
