"""Arguments of our architectures, read off a state dict in our names (which are smp's).

The libraries' files start from these and add what their models do differently with weights of the
same shapes.
"""

from __future__ import annotations

from typing import Any

from ..files import StateDict
from .encoders import count_of, deepest, encoder_arguments, has_stride_2, size_of

_CLASSIFIERS = "decoder.branches."  # of DeepLab v1 and v2


def deeplabv3_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3."""
    return _deeplab_arguments(state_dict, "decoder.aspp")


def deeplabv3plus_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV3Plus."""
    return _deeplab_arguments(state_dict, "decoder.aspp.0")


def _deeplab_arguments(state_dict: StateDict, aspp: str) -> dict[str, Any]:
    return {
        **_shared_arguments(state_dict, f"{aspp}.convs.0.0.weight"),
        "decoder_channels": size_of(state_dict, f"{aspp}.project.0.weight", 0, 256),
        "decoder_aspp_separable": f"{aspp}.convs.1.0.1.weight" in state_dict,
        "auxiliary_channels": _auxiliary_channels(state_dict),
    }


def pspnet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of PSPNet: smp's, or with a 3x3 convolution after the pooling those of the paper.

    The logits are upsampled to the size of the input, whatever factor smp was given.
    """
    kernel_size = size_of(state_dict, "decoder.conv.0.weight", 2, 1)
    arguments = {
        **_shared_arguments(state_dict, "decoder.psp.blocks.0.pool.1.0.weight"),
        "upsampling": None,
        "psp_out_channels": size_of(state_dict, "segmentation_head.0.weight", 1, 512),
        "decoder_use_norm": "decoder.conv.1.running_mean" in state_dict,
        "psp_kernel_size": kernel_size,
        "psp_norm_of_one": "decoder.psp.blocks.0.pool.1.1.running_mean" in state_dict,
        "head_kernel_size": size_of(state_dict, "segmentation_head.0.weight", 2, 3),
        "auxiliary_channels": _auxiliary_channels(state_dict),
    }
    if kernel_size > 1:
        arguments |= {"psp_input_first": True, "encoder_output_stride": 8}
    return arguments


def segformer_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of SegFormer; the logits are upsampled to the size of the input.

    It has a layer for each halving, but none for one that the encoder has no features of.
    """
    levels = count_of(state_dict, "decoder.mlp_stage.")
    return {
        **_shared_arguments(state_dict, depth=levels + (not has_stride_2(state_dict))),
        "decoder_segmentation_channels": size_of(state_dict, "decoder.fuse_stage.0.weight", 0, 256),
        "decoder_normed": "decoder.mlp_stage.0.0.weight" in state_dict,
    }


def fcn_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of FCN."""
    first = "decoder.convs.0.0.weight"
    return {
        **_shared_arguments(state_dict, first),
        "decoder_channels": size_of(state_dict, first, 0, 512),
        "decoder_convolutions": max(1, count_of(state_dict, "decoder.convs.")),
        "decoder_kernel_size": size_of(state_dict, first, 2, 3),
        "decoder_concat": "decoder.conv_cat.0.weight" in state_dict,
        "auxiliary_channels": _auxiliary_channels(state_dict),
    }


def upernet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of UPerNet; the grids are the usual ones, as many as there are."""
    count = count_of(state_dict, "decoder.psp.blocks.")
    usual = (1, 2, 3, 6)
    norms = "decoder.feature_norms.0.weight" in state_dict
    return {
        # Levels from stride 4 on; the coarsest has no lateral block.
        **_shared_arguments(
            state_dict, depth=count_of(state_dict, "decoder.fpn_lateral_blocks.") + 2
        ),
        "decoder_channels": size_of(state_dict, "decoder.fusion_block.0.weight", 0, 256),
        "decoder_use_norm": _norm_name(state_dict, "decoder.fusion_block"),
        "decoder_feature_norm_eps": 1e-6 if norms else None,
        "psp_bins": usual[:count] if count <= len(usual) else tuple(range(1, count + 1)),
        "auxiliary_channels": _auxiliary_channels(state_dict),
    }


def unet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of Unet."""
    depth = count_of(state_dict, "decoder.blocks.")
    block = "decoder.blocks.0"
    return {
        **_shared_arguments(state_dict, depth=depth),
        "decoder_channels": [
            size_of(state_dict, f"decoder.blocks.{i}.conv2.0.weight", 0, 16) for i in range(depth)
        ],
        "decoder_use_norm": _norm_name(state_dict, f"{block}.conv1"),
        "decoder_attention_type": (
            "scse" if f"{block}.attention1.attention.cSE.1.weight" in state_dict else None
        ),
    }


def deeplabv1_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV1."""
    first = f"{_CLASSIFIERS}0.0.weight"
    return {
        **_shared_arguments(state_dict, first, deepest(state_dict, first)),
        "classes": size_of(state_dict, f"{_CLASSIFIERS}0.6.bias", 0, 21),
        "decoder_hidden": size_of(state_dict, first, 0, 1024),
    }


def deeplabv2_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of DeepLabV2; the rates are the paper's, as many as there are classifiers."""
    hidden = size_of(state_dict, f"{_CLASSIFIERS}0.0.weight", 0, None)
    first, last = ("0", "0") if hidden is None else ("0.0", "0.6")
    reader = f"{_CLASSIFIERS}{first}.weight"
    count = max(1, count_of(state_dict, _CLASSIFIERS))
    return {
        **_shared_arguments(state_dict, reader, deepest(state_dict, reader)),
        "classes": size_of(state_dict, f"{_CLASSIFIERS}{last}.bias", 0, 21),
        "decoder_hidden": hidden,
        "decoder_atrous_rates": tuple(6 * (n + 1) for n in range(count)),
    }


def fpn_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of FPN; the logits are upsampled to the size of the input."""
    reader = "decoder.p5.weight"
    shared = _shared_arguments(state_dict, reader)
    channels = size_of(state_dict, "decoder.seg_blocks.0.block.0.block.0.weight", 0, 128)
    read = size_of(state_dict, "segmentation_head.0.weight", 1, channels)
    return {
        **shared,
        "decoder_pyramid_channels": size_of(state_dict, reader, 0, 256),
        "decoder_segmentation_channels": channels,
        "decoder_merge_policy": "add" if read == channels else "cat",
        "upsampling": 2 ** (shared.get("encoder_depth", 5) - 3),
    }


def lraspp_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of LRASPP."""
    first_blocks = "encoder.features.1.block.0.0.weight" in state_dict
    reader = "decoder.cbr.0.weight"
    # Of MobileNetV3 it reads other features than the last of each stride: the depth is asked of
    # the encoder itself.
    depth = (5 if "encoder.features.16.0.weight" in state_dict else 4) if first_blocks else None
    return {
        **_shared_arguments(state_dict, reader, depth),
        "classes": size_of(state_dict, "decoder.low_classifier.weight", 0, 21),
        "decoder_channels": size_of(state_dict, reader, 0, 128),
        **({"encoder_options": {"first_blocks": True}} if first_blocks else {}),
    }


def plain_unet_arguments(state_dict: StateDict) -> dict[str, Any]:
    """Arguments of PlainUNet; without norms the paper's, whose image is mirrored."""
    norm = "down.0.1.running_mean" in state_dict
    upsampling = "bilinear"
    if "up.0.deconv.weight" in state_dict:
        upsampling = "deconv2"
    elif "up.0.deconv.0.weight" in state_dict:
        upsampling = "deconv4"
    return {
        "classes": size_of(state_dict, "classifier.weight", 0, 1),
        "in_channels": size_of(state_dict, "down.0.0.weight", 1, 3),
        "base_channels": size_of(state_dict, "down.0.0.weight", 0, 64),
        "depth": count_of(state_dict, "down."),
        "upsampling": upsampling,
        "norm": norm,
        "border": "mirror" if upsampling == "deconv2" and not norm else "zeros",
        "head_channels": size_of(state_dict, "head.0.weight", 0, 0),
        "auxiliary_channels": _auxiliary_channels(state_dict) or 0,
    }


def _norm_name(state_dict: StateDict, layers: str) -> Any:
    """What `make_norm` makes the norm between a convolution and a ReLU of."""
    if f"{layers}.1.running_mean" in state_dict:
        return "batchnorm"
    if f"{layers}.1.weight" in state_dict:
        return {"type": "instancenorm", "affine": True}
    return "identity" if f"{layers}.0.bias" in state_dict else "instancenorm"


def _shared_arguments(
    state_dict: StateDict, reader: str | None = None, depth: int | None = None
) -> dict[str, Any]:
    """What every model takes.

    Args:
        reader: a weight that the encoder's last features go into, from which its depth is read.
        depth: of the encoder, instead.
    """
    arguments = {
        **encoder_arguments(state_dict, reader, depth),
        "classes": size_of(state_dict, "segmentation_head.0.weight", 0, 1),
    }
    if labels := size_of(state_dict, "classification_head.3.weight", 0, None):
        arguments["aux_params"] = {"classes": labels}
    return arguments


def _auxiliary_channels(state_dict: StateDict) -> int | None:
    """Hidden channels of the auxiliary head, or None if there is none."""
    return size_of(state_dict, "auxiliary_head.0.weight", 0, None)
