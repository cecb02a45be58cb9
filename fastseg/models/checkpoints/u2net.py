"""U2-Net and its small form, whose names are ours."""

from __future__ import annotations

from typing import Any

from ..files import StateDict
from ..u2net import CHANNELS, HIDDEN, STAGES, U2Net
from .encoders import size_of
from .family import Family


def _u2net(state_dict: StateDict) -> dict[str, Any]:
    def widths(layers: str, usual: tuple[int, ...]) -> list[int]:
        return [
            size_of(state_dict, f"stage{stage}.{layers}.conv_s1.weight", 0, width)
            for stage, width in zip(STAGES, usual, strict=True)
        ]

    return {
        "classes": size_of(state_dict, "outconv.weight", 0, 1),
        "in_channels": size_of(state_dict, "stage1.rebnconvin.conv_s1.weight", 1, 3),
        "channels": widths("rebnconvin", CHANNELS),
        "hidden": widths("rebnconv1", HIDDEN),
        "norm": "stage1.rebnconvin.bn_s1.running_mean" in state_dict,
    }


FAMILIES = (Family("u2net", U2Net, _u2net, ("stage1.rebnconvin.", "side1.", "outconv.")),)
