"""TensorFlow's mobile DeepLab, in the names of our class."""

from __future__ import annotations

from typing import Any

from ...classes import VOC
from ..files import StateDict
from ..tf_deeplab_mobilenetv2 import BLOCK_STRIDES, TFDeepLabMobileNetV2
from .family import Family


def mobilenetv2_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of TFDeepLabMobileNetV2.

    Raises:
        KeyError: a tensor that tells one of them is missing.
    """
    count = state_dict["logits.weight"].shape[0]
    stem, in_channels = state_dict["stem.weight"].shape[:2]
    expanded, block_input = state_dict["blocks.1.expand.weight"].shape[:2]
    return {
        "classes": VOC if count == len(VOC) else count,
        "in_channels": in_channels,
        "stem": stem,
        "widths": [
            state_dict[f"blocks.{index}.project.weight"].shape[0]
            for index in range(len(BLOCK_STRIDES))
        ],
        "expansion": expanded // block_input,
        "head": state_dict["aspp0.weight"].shape[0],
    }


FAMILIES = (
    Family(
        "tf-deeplab-mobilenetv2",
        TFDeepLabMobileNetV2,
        mobilenetv2_arguments,
        ("stem.", "blocks.1.depthwise.", "image_pooling.", "aspp0.", "concat_projection."),
    ),
)
