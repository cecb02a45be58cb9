"""Tests on a GPU run the generic tests of tests/ops on its tensors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "ops"))

import op_cases


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside, op_cases.inputs() makes CUDA tensors."""
    monkeypatch.setattr(op_cases, "DEVICE", "cuda")
