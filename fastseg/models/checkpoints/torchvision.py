"""torchvision's FCN, DeepLabV3 and LR-ASPP."""

from __future__ import annotations

from typing import Any

from ..deeplabv3 import DeepLabV3
from ..fcn import FCN
from ..files import StateDict
from ..lraspp import LRASPP
from .arguments import deeplabv3_arguments, fcn_arguments, lraspp_arguments
from .family import CONTRACTED, Family

_DEEPLABV3 = {
    "backbone.": "encoder.",
    "classifier.0.": "decoder.aspp.",
    "classifier.1.": "decoder.conv.",
    "classifier.2.": "decoder.bn.",
    "classifier.4.": "segmentation_head.0.",
    "aux_classifier.": "auxiliary_head.",
}
_FCN = {
    "backbone.": "encoder.",
    "classifier.0.": "decoder.convs.0.0.",
    "classifier.1.": "decoder.convs.0.1.",
    "classifier.4.": "segmentation_head.0.",
    "aux_classifier.": "auxiliary_head.",
}


def _fcn(state_dict: StateDict) -> dict[str, Any]:
    """A ResNet at output stride 8."""
    return {**fcn_arguments(state_dict), "encoder_options": CONTRACTED}


def _deeplabv3(state_dict: StateDict) -> dict[str, Any]:
    """A ResNet at output stride 8."""
    return {
        **deeplabv3_arguments(state_dict),
        "encoder_options": CONTRACTED,
        "align_corners": False,
    }


def _deeplabv3_mobilenet(state_dict: StateDict) -> dict[str, Any]:
    """A MobileNetV3 at output stride 16; the second head reads the first features at stride 8."""
    return {
        **deeplabv3_arguments(state_dict),
        "encoder_output_stride": 16,
        "encoder_options": {"first_blocks": True},
        "auxiliary_level": 3,
        "align_corners": False,
    }


FAMILIES = (
    Family(
        "torchvision-deeplabv3-mobilenet",
        DeepLabV3,
        _deeplabv3_mobilenet,
        ("backbone.1.block.", "classifier.0.convs.", "classifier.4."),
        names={**_DEEPLABV3, "backbone.": "encoder.features."},
    ),
    Family(
        "torchvision-lraspp",
        LRASPP,
        lraspp_arguments,
        ("backbone.1.block.", "classifier.cbr.", "classifier.low_classifier."),
        names={"backbone.": "encoder.features.", "classifier.": "decoder."},
    ),
    Family(
        "torchvision-deeplabv3",
        DeepLabV3,
        _deeplabv3,
        ("backbone.", "classifier.0.convs.", "classifier.4."),
        names=_DEEPLABV3,
    ),
    Family(
        "torchvision-fcn",
        FCN,
        _fcn,
        ("backbone.", "classifier.0.weight", "classifier.4."),
        names=_FCN,
    ),
)
