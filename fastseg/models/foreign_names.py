"""Checkpoints of torchvision, mmsegmentation, semseg and VainF's DeepLab: their names in ours.

What they do differently with weights of the same shapes is not in the weights. It belongs to the
family: whether the first block of a dilated stage is dilated too (semseg, smp) or keeps the
dilation of the stage before (the others), align_corners, and the order of concatenations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .files import StateDict
from .smp_arguments import deeplabv3_arguments, deeplabv3plus_arguments, pspnet_arguments

_CONTRACTED = {"contract_dilation": True}
# Indices of convolutions and norms in a stem of three 3x3 convolutions; its last norm is bn1.
_STEM = {0: "conv1.0", 1: "conv1.1", 3: "conv1.3", 4: "conv1.4", 6: "conv1.6", 7: "bn1"}
_CONV_MODULE = {"conv": "0", "bn": "1"}


def renamed(state_dict: StateDict, prefixes: Mapping[str, str]) -> StateDict:
    """The tensors under our names; those that no prefix fits keep theirs."""
    ordered = sorted(prefixes, key=len, reverse=True)
    result: StateDict = {}
    for key, value in state_dict.items():
        prefix = next((p for p in ordered if key.startswith(p)), None)
        result[key if prefix is None else prefixes[prefix] + key[len(prefix) :]] = value
    return result


TORCHVISION_DEEPLABV3 = {
    "backbone.": "encoder.",
    "classifier.0.": "decoder.aspp.",
    "classifier.1.": "decoder.conv.",
    "classifier.2.": "decoder.bn.",
    "classifier.4.": "segmentation_head.0.",
    "aux_classifier.": "auxiliary_head.",
}
VAINF_DEEPLABV3 = {
    "backbone.": "encoder.",
    "classifier.classifier.0.": "decoder.aspp.",
    "classifier.classifier.1.": "decoder.conv.",
    "classifier.classifier.2.": "decoder.bn.",
    "classifier.classifier.4.": "segmentation_head.0.",
}
VAINF_DEEPLABV3PLUS = {
    "backbone.": "encoder.",
    "classifier.project.": "decoder.block1.",
    "classifier.aspp.": "decoder.aspp.0.",
    "classifier.classifier.0.": "decoder.block2.0.",
    "classifier.classifier.1.": "decoder.block2.1.",
    "classifier.classifier.3.": "segmentation_head.0.",
}
SEMSEG_PSPNET = {
    **{f"layer{i}.": f"encoder.layer{i}." for i in (1, 2, 3, 4)},
    **{f"layer0.{i}.": f"encoder.{name}." for i, name in _STEM.items()},
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
_MMSEG = {
    "backbone.": "encoder.",
    **{f"backbone.stem.{i}.": f"encoder.{name}." for i, name in _STEM.items()},
    "decode_head.conv_seg.": "segmentation_head.0.",
    **{f"auxiliary_head.convs.0.{k}.": f"auxiliary_head.{v}." for k, v in _CONV_MODULE.items()},
    "auxiliary_head.conv_seg.": "auxiliary_head.4.",
}
MMSEG_PSPNET = {
    **_MMSEG,
    **{
        f"decode_head.psp_modules.{n}.1.{k}.": f"decoder.psp.blocks.{n}.pool.1.{v}."
        for n in range(9)
        for k, v in _CONV_MODULE.items()
    },
    **{f"decode_head.bottleneck.{k}.": f"decoder.conv.{v}." for k, v in _CONV_MODULE.items()},
}
MMSEG_DEEPLABV3 = {
    **_MMSEG,
    **{
        f"decode_head.aspp_modules.{n}.{k}.": f"decoder.aspp.convs.{n}.{v}."
        for n in range(4)
        for k, v in _CONV_MODULE.items()
    },
    "decode_head.image_pool.1.conv.": "decoder.aspp.convs.4.1.",
    "decode_head.image_pool.1.bn.": "decoder.aspp.convs.4.2.",
    **{
        f"decode_head.bottleneck.{k}.": f"decoder.aspp.project.{v}."
        for k, v in _CONV_MODULE.items()
    },
}
# In a separable convolution with norms: depthwise, its norm, ReLU, pointwise; then the last norm.
_SEPARABLE = {
    "depthwise_conv.conv": "0.0",
    "depthwise_conv.bn": "0.1",
    "pointwise_conv.conv": "0.3",
    "pointwise_conv.bn": "1",
}
MMSEG_DEEPLABV3PLUS = {
    **_MMSEG,
    **{
        f"decode_head.{name}.{k}.": f"decoder.{ours}.{v}."
        for name, ours in (
            ("aspp_modules.0", "aspp.0.convs.0"),
            ("bottleneck", "aspp.0.project"),
            ("c1_bottleneck", "block1"),
        )
        for k, v in _CONV_MODULE.items()
    },
    "decode_head.image_pool.1.conv.": "decoder.aspp.0.convs.4.1.",
    "decode_head.image_pool.1.bn.": "decoder.aspp.0.convs.4.2.",
    **{
        f"decode_head.aspp_modules.{n}.{k}.": f"decoder.aspp.0.convs.{n}.{v}."
        for n in (1, 2, 3)
        for k, v in _SEPARABLE.items()
    },
    # Three layers each, in one sequence: 0 1 2, 3 4 5.
    **{
        f"decode_head.sep_bottleneck.{n}.{k}.": f"decoder.block2.{3 * n + int(v[0])}{v[1:]}."
        for n in (0, 1)
        for k, v in _SEPARABLE.items()
    },
}


def torchvision_deeplabv3_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3; a ResNet at output stride 8."""
    return {
        **deeplabv3_arguments(state_dict),
        "encoder_options": _CONTRACTED,
        "auxiliary_channels": _auxiliary(state_dict),
        "align_corners": False,
    }


def vainf_deeplabv3_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3 at output stride 16, with the rates that go with it."""
    return {
        **deeplabv3_arguments(state_dict),
        "encoder_output_stride": 16,
        "decoder_atrous_rates": (6, 12, 18),
        "decoder_aspp_dropout": 0.1,
        "encoder_options": _CONTRACTED,
        "align_corners": False,
    }


def vainf_deeplabv3plus_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3Plus at output stride 16, with the rates that go with it."""
    return {
        **deeplabv3plus_arguments(state_dict),
        "decoder_atrous_rates": (6, 12, 18),
        "decoder_aspp_dropout": 0.1,
        "encoder_options": _CONTRACTED,
        "align_corners": False,
        "decoder_refine": False,
        "decoder_dense": True,
        "low_level_first": True,
    }


def semseg_pspnet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of PSPNet; as in the paper."""
    return {**pspnet_arguments(state_dict), "psp_dropout": 0.1}


def mmseg_pspnet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of PSPNet at output stride 8."""
    arguments = {**pspnet_arguments(state_dict), "psp_dropout": 0.1, "align_corners": False}
    arguments["encoder_options"] = {**arguments["encoder_options"], **_CONTRACTED}
    return arguments


def mmseg_deeplabv3_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3 at output stride 8."""
    arguments = deeplabv3_arguments(state_dict)
    return {
        **arguments,
        "encoder_options": {**arguments.get("encoder_options", {}), **_CONTRACTED},
        "decoder_aspp_dropout": 0.1,
        "auxiliary_channels": _auxiliary(state_dict),
        "align_corners": False,
        "decoder_refine": False,
        "aspp_pooled_first": True,
        "aspp_project_kernel": 3,
    }


def mmseg_deeplabv3plus_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3Plus at output stride 8, with the rates that go with it; mmseg's
    dropout before the classes is left out."""
    arguments = deeplabv3plus_arguments(state_dict)
    return {
        **arguments,
        "encoder_options": {**arguments.get("encoder_options", {}), **_CONTRACTED},
        "encoder_output_stride": 8,
        "decoder_aspp_separable": True,
        "decoder_aspp_dropout": 0.0,
        "auxiliary_channels": _auxiliary(state_dict),
        "align_corners": False,
        "decoder_refine": False,
        "aspp_pooled_first": True,
        "aspp_project_kernel": 3,
        "decoder_separable_norm": True,
        "decoder_fusions": 2,
    }


def _auxiliary(state_dict: StateDict) -> int | None:
    weight = state_dict.get("auxiliary_head.0.weight")
    return None if weight is None else weight.shape[0]
