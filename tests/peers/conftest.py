"""Other libraries, imported where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fastseg.testing.peers import declare_torchvision_ops


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Rounding depends on how PyTorch cuts its sums: the same in every worker of pytest-xdist."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def smp() -> Any:
    """segmentation_models_pytorch."""
    declare_torchvision_ops()
    return pytest.importorskip("segmentation_models_pytorch")
