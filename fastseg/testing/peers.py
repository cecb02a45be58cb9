"""Other libraries of the field, where they are installed."""

from __future__ import annotations

import torch


def declare_torchvision_ops() -> None:
    """Lets a torchvision built for another torch be imported: it registers fake implementations of
    ops that its library, which then does not load, would have declared."""
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
