"""Other libraries, imported where they are installed."""

from __future__ import annotations

from typing import Any

import pytest

from fastseg.testing.peers import declare_torchvision_ops


@pytest.fixture(scope="session")
def smp() -> Any:
    """segmentation_models_pytorch."""
    declare_torchvision_ops()
    return pytest.importorskip("segmentation_models_pytorch")
