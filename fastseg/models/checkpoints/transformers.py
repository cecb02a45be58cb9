"""MobileNetV2, SegFormer and UPerNet for semantic segmentation, of Hugging Face transformers.

The former is TensorFlow's mobile DeepLab: its batch norms follow the convolutions; ours are folded
into them.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from ..files import StateDict
from ..segformer import SegFormer
from ..tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2
from ..upernet import UPerNet
from . import convnext
from .arguments import segformer_arguments, upernet_arguments
from .family import Family
from .mit import from_transformers
from .swin import from_transformers as swin_from_transformers
from .swin import to_transformers as swin_to_transformers
from .tensorflow import mobilenetv2_arguments

# Epsilon of the batch norms: TensorFlow's in the backbone, PyTorch's in the head.
_BACKBONE_EPSILON, _HEAD_EPSILON = 1e-3, 1e-5
_LAYERS = {
    "mobilenet_v2.conv_stem.first_conv": "stem",
    "mobilenet_v2.conv_stem.conv_3x3": "blocks.0.depthwise",
    "mobilenet_v2.conv_stem.reduce_1x1": "blocks.0.project",
    "segmentation_head.conv_pool": "image_pooling",
    "segmentation_head.conv_aspp": "aspp0",
    "segmentation_head.conv_projection": "concat_projection",
    "segmentation_head.classifier": "logits",
}
_PARTS = {"expand_1x1": "expand", "conv_3x3": "depthwise", "reduce_1x1": "project"}
_NORM = ("weight", "bias", "running_mean", "running_var")


def _folded(state_dict: StateDict) -> StateDict:
    """The tensors under our names, norms folded.

    Layers that are incomplete or unknown keep their names, and so does the backbone's last 1x1
    convolution, which only the image classifier reads.
    """
    result = dict(state_dict)
    for theirs in sorted({_layer(key) for key in state_dict} - {""}):
        ours = _our_name(theirs)
        weight = f"{theirs}.convolution.weight"
        norm = [f"{theirs}.normalization.{name}" for name in _NORM]
        if ours is None or weight not in state_dict:
            continue
        if all(key in state_dict for key in norm):
            gamma, beta, mean, variance = (state_dict[key].float() for key in norm)
            in_head = theirs.startswith("segmentation_head.")
            epsilon = _HEAD_EPSILON if in_head else _BACKBONE_EPSILON
            scale = gamma * torch.rsqrt(variance + epsilon)
            result[f"{ours}.weight"] = state_dict[weight].float() * scale.view(-1, 1, 1, 1)
            result[f"{ours}.bias"] = beta - mean * scale
            used = [weight, *norm, f"{theirs}.normalization.num_batches_tracked"]
        elif (bias := f"{theirs}.convolution.bias") in state_dict:
            result[f"{ours}.weight"] = state_dict[weight]
            result[f"{ours}.bias"] = state_dict[bias]
            used = [weight, bias]
        else:
            continue
        for key in used:
            result.pop(key, None)
    return result


def _layer(key: str) -> str:
    """The layer whose convolution or norm a tensor belongs to; "" for other tensors."""
    found = re.match(r"(.*)\.(?:convolution|normalization)\.\w+$", key)
    return found[1] if found else ""


def _our_name(layer: str) -> str | None:
    found = re.match(r"mobilenet_v2\.layer\.(\d+)\.(\w+)$", layer)
    if found and found[2] in _PARTS:
        return f"blocks.{int(found[1]) + 1}.{_PARTS[found[2]]}"
    return _LAYERS.get(layer)


# A convolution module's parts -> indices in our sequence.
_CONV_MODULE = {"conv": "0", "batch_norm": "1"}
_LATERAL = "decoder.fpn_lateral_blocks"
_UPERNET = {
    "backbone.": "encoder.",
    "backbone.swin.": "encoder.",  # in the memory of version 5
    **{
        f"{theirs}.{k}.": f"{ours}.{v}."
        for theirs, ours in (
            *((f"decode_head.psp_modules.{n}.1", f"decoder.psp.blocks.{n}.1") for n in range(9)),
            ("decode_head.bottleneck", "decoder.psp.out_conv"),
            # Ours are the coarsest first.
            *(
                (
                    f"decode_head.lateral_convs.{n}",
                    f"decoder.fpn_lateral_blocks.{2 - n}.conv_norm_relu",
                )
                for n in range(3)
            ),
            *((f"decode_head.fpn_convs.{n}", f"decoder.fpn_conv_blocks.{2 - n}") for n in range(3)),
            ("decode_head.fpn_bottleneck", "decoder.fusion_block"),
            ("auxiliary_head.convs.0", "auxiliary_head"),
        )
        for k, v in _CONV_MODULE.items()
    },
    "decode_head.classifier.": "segmentation_head.0.",
    "auxiliary_head.classifier.": "auxiliary_head.4.",
}


def _upernet(state_dict: StateDict) -> dict[str, Any]:
    return {
        **upernet_arguments(state_dict),
        "align_corners": False,
        **convnext.arguments(state_dict),
    }


def _upernet_encoder(state_dict: StateDict) -> StateDict:
    """The tensors of the encoder as ours: of a ConvNeXt or a Swin."""
    if convnext.is_transformers(state_dict):
        return convnext.from_transformers(state_dict)
    return swin_from_transformers(state_dict)


def _upernet_encoder_there(state_dict: StateDict) -> StateDict:
    """The reverse of `_upernet_encoder`."""
    if "encoder.model.stem_0.weight" in state_dict:
        return convnext.to_transformers(state_dict)
    return swin_to_transformers(state_dict)


def _segformer(state_dict: StateDict) -> dict[str, Any]:
    """SegFormer's layer norms all have the epsilon 1e-5 there."""
    arguments = segformer_arguments(state_dict)
    options = {**arguments["encoder_options"], "norm_eps": 1e-5}
    return {
        **arguments,
        "encoder_options": options,
        "decoder_dropout": 0.1,
        "align_corners": False,
    }


FAMILIES = (
    Family(
        "hf-upernet",
        UPerNet,
        _upernet,
        ("backbone.", "decode_head.lateral_convs.", "decode_head.fpn_bottleneck.batch_norm."),
        names=_UPERNET,
        convert=_upernet_encoder,
        restore=_upernet_encoder_there,
    ),
    Family(
        "hf-segformer",
        SegFormer,
        _segformer,
        ("segformer.", "decode_head.linear_fuse.", "decode_head.classifier."),
        convert=from_transformers,
    ),
    Family(
        "hf-deeplab-mobilenetv2",
        TFDeepLabMobileNetV2,
        mobilenetv2_arguments,
        ("mobilenet_v2.conv_stem.", "segmentation_head.conv_pool."),
        convert=_folded,
    ),
)


def upernet_tensors(state_dict: StateDict) -> StateDict:
    """Tensors of UperNetForSemanticSegmentation with a Swin or a ConvNeXt as ours."""
    return FAMILIES[0].translated(state_dict)


def upernet_tensors_there(state_dict: StateDict) -> StateDict:
    """The reverse of `upernet_tensors`, with the Swin's last norm, which nothing reads."""
    result = FAMILIES[0].restored(state_dict)
    if (last := state_dict.get("encoder.norm3.weight")) is not None:
        result["backbone.swin.layernorm.weight"] = torch.ones_like(last)
        result["backbone.swin.layernorm.bias"] = torch.zeros_like(last)
    return result
