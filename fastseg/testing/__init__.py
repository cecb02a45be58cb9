"""What the tests and benchmarks of every op share; importing it needs torch only."""

from .compare import (
    assert_as_accurate,
    assert_counts_as_accurate,
    assert_labels_as_accurate,
    relative_error,
)
from .poison import poisoned_empty
from .samples import ErrorSample, Maker, OpSamples, Sample, Workload

__all__ = [
    "ErrorSample",
    "Maker",
    "OpSamples",
    "Sample",
    "Workload",
    "assert_as_accurate",
    "assert_counts_as_accurate",
    "assert_labels_as_accurate",
    "poisoned_empty",
    "relative_error",
]
