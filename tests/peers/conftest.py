"""Other libraries, imported where they are installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def smp() -> Any:
    """segmentation_models_pytorch."""
    declare_torchvision_ops()
    return pytest.importorskip("segmentation_models_pytorch")


def declare_torchvision_ops() -> None:
    """Lets a torchvision built for another torch be imported: it registers fake implementations of
    ops that its library, which then does not load, would have declared."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
