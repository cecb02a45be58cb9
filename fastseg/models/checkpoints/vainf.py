"""DeepLabV3 and DeepLabV3+ of VainF's DeepLabV3Plus-Pytorch."""

from __future__ import annotations

from typing import Any

from ..deeplabv3 import DeepLabV3, DeepLabV3Plus
from ..files import StateDict
from .arguments import deeplabv3_arguments, deeplabv3plus_arguments
from .family import CONTRACTED, Family

_DEEPLABV3 = {
    "backbone.": "encoder.",
    "classifier.classifier.0.": "decoder.aspp.",
    "classifier.classifier.1.": "decoder.conv.",
    "classifier.classifier.2.": "decoder.bn.",
    "classifier.classifier.4.": "segmentation_head.0.",
}
_DEEPLABV3PLUS = {
    "backbone.": "encoder.",
    "classifier.project.": "decoder.block1.",
    "classifier.aspp.": "decoder.aspp.0.",
    "classifier.classifier.0.": "decoder.block2.0.",
    "classifier.classifier.1.": "decoder.block2.1.",
    "classifier.classifier.3.": "segmentation_head.0.",
}
# Both models at output stride 16, with the rates that go with it.
_SHARED = {
    "encoder_output_stride": 16,
    "decoder_atrous_rates": (6, 12, 18),
    "decoder_aspp_dropout": 0.1,
    "encoder_options": CONTRACTED,
    "align_corners": False,
}


def _deeplabv3(state_dict: StateDict) -> dict[str, Any]:
    return {**deeplabv3_arguments(state_dict), **_SHARED}


def _deeplabv3plus(state_dict: StateDict) -> dict[str, Any]:
    """A dense convolution over [features at stride 4, ASPP]."""
    return {
        **deeplabv3plus_arguments(state_dict),
        **_SHARED,
        "decoder_refine": False,
        "decoder_dense": True,
        "low_level_first": True,
    }


FAMILIES = (
    Family(
        "vainf-deeplabv3",
        DeepLabV3,
        _deeplabv3,
        ("backbone.", "classifier.classifier.0.convs."),
        names=_DEEPLABV3,
    ),
    Family(
        "vainf-deeplabv3plus",
        DeepLabV3Plus,
        _deeplabv3plus,
        ("backbone.", "classifier.project.", "classifier.aspp."),
        names=_DEEPLABV3PLUS,
    ),
)
