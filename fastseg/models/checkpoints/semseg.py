"""PSPNet of hszhao's semseg."""

from __future__ import annotations

from typing import Any

from ..files import StateDict
from ..pspnet import PSPNet
from .arguments import pspnet_arguments
from .family import DEEP_STEM, Family

_PSPNET = {
    **{f"layer{i}.": f"encoder.layer{i}." for i in (1, 2, 3, 4)},
    **{f"layer0.{i}.": f"encoder.{name}." for i, name in DEEP_STEM.items()},
    **{
        f"ppm.features.{n}.{i}.": f"decoder.psp.blocks.{n}.pool.1.{i - 1}."
        for n in range(9)
        for i in (1, 2)
    },
    "cls.0.": "decoder.conv.0.",
    "cls.1.": "decoder.conv.1.",
    "cls.4.": "segmentation_head.0.",
    "aux.": "auxiliary_head.",
}


def _pspnet(state_dict: StateDict) -> dict[str, Any]:
    """As in the paper."""
    return {**pspnet_arguments(state_dict), "psp_dropout": 0.1}


FAMILIES = (
    Family(
        "semseg-pspnet",
        PSPNet,
        _pspnet,
        ("layer0.", "ppm.features.", "cls."),
        names=_PSPNET,
    ),
)
