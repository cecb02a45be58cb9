"""Benchmarks: every case is checked first, then timed beside its PyTorch peers in one process.

`fastseg bench` and `pytest benchmarks/` share this code: cases (what is run), candidates (fastseg
and its peers as callables), check and harness (check, then time), timing (clocks), memory (peak
extra memory), machine (what it ran on and the ceilings measured there), results (the file) and
report (table and picture). Only report needs more than torch and numpy.
"""

from .cases import Case, all_samples, make_cases
from .harness import Settings, WrongResult, rate, run_case
from .machine import Ceilings, describe_machine, measure_ceilings

__all__ = [
    "Case",
    "Ceilings",
    "Settings",
    "WrongResult",
    "all_samples",
    "describe_machine",
    "make_cases",
    "measure_ceilings",
    "rate",
    "run_case",
]
