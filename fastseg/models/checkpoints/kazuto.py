"""DeepLab v2 of kazuto1011's deeplab-pytorch: a ResNet, perhaps inside its multi-scale wrapper."""

from __future__ import annotations

import re
from typing import Any

from ..deeplabv2 import DeepLabV2
from ..files import StateDict
from .arguments import deeplabv2_arguments
from .family import Family

_STEM = {"conv1.conv": "conv1", "conv1.bn": "bn1"}
_PARTS = {
    "reduce.conv": "conv1",
    "reduce.bn": "bn1",
    "conv3x3.conv": "conv2",
    "conv3x3.bn": "bn2",
    "increase.conv": "conv3",
    "increase.bn": "bn3",
    "shortcut.conv": "downsample.0",
    "shortcut.bn": "downsample.1",
}
_BLOCK = re.compile(r"layer([2-5])\.block(\d+)\.(\w+\.(?:conv|bn))\.(\w+)")


def _ours(state_dict: StateDict) -> StateDict:
    """The tensors as ours; others keep their names."""
    result: StateDict = {}
    for key, value in state_dict.items():
        name = key.removeprefix("base.")
        block = _BLOCK.fullmatch(name)
        stem = re.fullmatch(r"layer1\.(conv1\.(?:conv|bn))\.(\w+)", name)
        if block and block[3] in _PARTS and int(block[2]) > 0:
            stage, position, part = int(block[1]) - 1, int(block[2]) - 1, _PARTS[block[3]]
            name = f"encoder.layer{stage}.{position}.{part}.{block[4]}"
        elif stem:
            name = f"encoder.{_STEM[stem[1]]}.{stem[2]}"
        elif found := re.fullmatch(r"aspp\.c(\d+)\.(\w+)", name):
            name = f"decoder.branches.{found[1]}.{found[2]}"
        else:
            name = key
        result[name] = value
    return result


def _theirs(state_dict: StateDict) -> StateDict:
    """The reverse of `_ours`, with the wrapper's prefix."""
    stems = {ours: theirs for theirs, ours in _STEM.items()}
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    result: StateDict = {}
    for key, value in state_dict.items():
        name, _, kind = key.rpartition(".")
        inner = name.removeprefix("encoder.")
        if inner in stems:
            name = f"base.layer1.{stems[inner]}"
        elif found := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", inner):
            block = f"layer{int(found[1]) + 1}.block{int(found[2]) + 1}"
            name = f"base.{block}.{parts[found[3]]}"
        elif found := re.fullmatch(r"decoder\.branches\.(\d+)", name):
            name = f"base.aspp.c{found[1]}"
        result[f"{name}.{kind}"] = value
    return result


def _deeplabv2(state_dict: StateDict) -> dict[str, Any]:
    """Caffe's ResNet; every stage's first block is dilated as the others."""
    arguments = deeplabv2_arguments(state_dict)
    options = {**arguments["encoder_options"], "stride_first": True, "pool_ceil_mode": True}
    return {
        **arguments,
        "encoder_options": options,
        "scales": (0.5, 0.75),
        "align_corners": False,
    }


FAMILIES = tuple(
    Family(
        "kazuto-deeplabv2",
        DeepLabV2,
        _deeplabv2,
        (f"{prefix}layer1.conv1.conv.", f"{prefix}layer5.block1.reduce.", f"{prefix}aspp.c0."),
        convert=_ours,
        restore=_theirs,
    )
    for prefix in ("base.", "")
)
