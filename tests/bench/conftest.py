"""A workload small enough to check and time in a moment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from fastseg.bench import Settings
from fastseg.ops.upsample_bilinear.samples import SAMPLES
from fastseg.testing import Maker, OpSamples, Workload


def _inputs(make: Maker, memory_format: Any) -> dict[str, Any]:
    x = make.map(1, 3, 5, 6).contiguous(memory_format=memory_format)
    return {"x": x, "size": (9, 11), "align_corners": False}


TINY = Workload(
    "tiny", _inputs, lambda _: 1000, lambda _: 2000, ("forward", "backward", "forward+backward")
)


@pytest.fixture
def tiny() -> OpSamples:
    """upsample_bilinear on one tiny workload."""
    return dataclasses.replace(SAMPLES, cpu_workloads=(TINY,), gpu_workloads=(TINY,))


@pytest.fixture
def brief() -> Settings:
    """One round, without torch.compile."""
    return Settings(budget_s=0.0, min_rounds=1, compile=False)
