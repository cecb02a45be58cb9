"""Arguments of PSPNet, DeepLabV3 and DeepLabV3Plus, read off state dicts with smp's names.

A missing tensor gives an argument its usual value: that it is missing is said when the model is
filled.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from .encoders import make_encoder
from .files import StateDict

# Blocks of the four stages. Where the stages that are there fit several, the first has the same
# values as the others.
_BASIC = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
_BOTTLENECK = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3)}
_FIRST_WEIGHTS = (
    "encoder.conv1.weight",
    "encoder.conv1.0.weight",
    "encoder.features.0.0.weight",
)


def deeplabv3_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3."""
    return _deeplab_arguments(state_dict, "decoder.aspp")


def deeplabv3plus_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3Plus."""
    return _deeplab_arguments(state_dict, "decoder.aspp.0")


def _deeplab_arguments(state_dict: StateDict, aspp: str) -> dict[str, Any]:
    options = _stem_options(state_dict)
    return {
        **_encoder_arguments(state_dict, f"{aspp}.convs.0.0.weight", options),
        **({"encoder_options": options} if options else {}),
        "decoder_channels": _size(state_dict, f"{aspp}.project.0.weight", 0, 256),
        "decoder_aspp_separable": f"{aspp}.convs.1.0.1.weight" in state_dict,
    }


def pspnet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of PSPNet: smp's, or with a 3x3 convolution after the pooling those of the paper.

    The upsampling is the one that gives the size of the input, whatever smp was told.
    """
    kernel_size = _size(state_dict, "decoder.conv.0.weight", 2, 1)
    options = _stem_options(state_dict)
    shared = _encoder_arguments(state_dict, "decoder.psp.blocks.0.pool.1.0.weight", options)
    arguments = {
        **shared,
        "upsampling": None,
        "encoder_options": options,
        "psp_out_channels": _size(state_dict, "segmentation_head.0.weight", 1, 512),
        "decoder_use_norm": "decoder.conv.1.running_mean" in state_dict,
        "psp_kernel_size": kernel_size,
        "psp_norm_of_one": "decoder.psp.blocks.0.pool.1.1.running_mean" in state_dict,
        "head_kernel_size": _size(state_dict, "segmentation_head.0.weight", 2, 3),
        "auxiliary_channels": _size(state_dict, "auxiliary_head.0.weight", 0, None),
    }
    if kernel_size > 1:
        arguments |= {"psp_input_first": True, "encoder_output_stride": 8}
    return arguments


def _stem_options(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of an encoder that begins with three 3x3 convolutions."""
    if "encoder.conv1.0.weight" not in state_dict:
        return {}
    stem = [_size(state_dict, f"encoder.conv1.{index}.weight", 0, 64) for index in (0, 3, 6)]
    return {"stem_channels": stem}


def _encoder_arguments(
    state_dict: StateDict, reader: str, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What every model takes; `reader` is a weight that the encoder's last features go into."""
    name = _encoder_name(state_dict)
    first = next((key for key in _FIRST_WEIGHTS if key in state_dict), "")
    with torch.device("meta"):
        widths = make_encoder(name, **(options or {})).out_channels
    channels = _size(state_dict, reader, 1, widths[-1])
    if channels not in widths[3:]:
        raise ValueError(f"{reader} reads {channels} channels, {name} has {widths[3:]}")
    arguments: dict[str, Any] = {
        "encoder_name": name,
        "encoder_weights": None,
        "encoder_depth": widths.index(channels, 3),
        "in_channels": _size(state_dict, first, 1, 3),
        "classes": _size(state_dict, "segmentation_head.0.weight", 0, 1),
    }
    if labels := _size(state_dict, "classification_head.3.weight", 0, None):
        arguments["aux_params"] = {"classes": labels}
    return arguments


def _encoder_name(names: Iterable[str]) -> str:
    inner = {name.removeprefix("encoder.") for name in names if name.startswith("encoder.")}
    if any(name.startswith("features.0.0.") for name in inner):
        return "mobilenet_v2"
    counts = [
        len({name.split(".")[1] for name in inner if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    built = tuple(count for count in counts if count > 0)
    variants = _BOTTLENECK if any(n.startswith("layer1.0.conv3.") for n in inner) else _BASIC
    for name, expected in variants.items():
        if built and built == expected[: len(built)]:
            return name
    raise ValueError(f"its encoder is none of {', '.join([*_BASIC, *_BOTTLENECK, 'mobilenet_v2'])}")


def _size(state_dict: StateDict, key: str, axis: int, default: Any) -> Any:
    return state_dict[key].shape[axis] if key in state_dict else default
