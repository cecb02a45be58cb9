"""The libraries whose models are accelerated, imported where they are installed."""

from __future__ import annotations

from typing import Any

import pytest

from fastseg.testing.peers import declare_torchvision_ops


@pytest.fixture(scope="session")
def peers() -> Any:
    """Gives a library by its name, or skips the test."""

    def peer(name: str) -> Any:
        declare_torchvision_ops()
        return pytest.importorskip(name)

    return peer
