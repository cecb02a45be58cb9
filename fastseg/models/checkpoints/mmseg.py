"""mmsegmentation 1.x: FCN, PSPNet, DeepLabV3 and DeepLabV3+ at output stride 8; UNet, SegFormer and
UPerNet."""

from __future__ import annotations

from typing import Any

from ..deeplabv3 import DeepLabV3, DeepLabV3Plus
from ..fcn import FCN
from ..files import StateDict
from ..plain_unet import PlainUNet
from ..pspnet import PSPNet
from ..segformer import SegFormer
from ..upernet import UPerNet
from . import convnext
from .arguments import (
    deeplabv3_arguments,
    deeplabv3plus_arguments,
    fcn_arguments,
    plain_unet_arguments,
    pspnet_arguments,
    segformer_arguments,
    upernet_arguments,
)
from .family import CONTRACTED, DEEP_STEM, Family
from .mit import from_mmseg
from .swin import from_mmseg as swin_from_mmseg

# A ConvModule's convolution and norm -> indices in our sequence.
_CONV_MODULE = {"conv": "0", "bn": "1"}
# A DepthwiseSeparableConvModule: depthwise, its norm, (ReLU,) pointwise in a sequence of their own,
# then the last norm.
_SEPARABLE = {
    "depthwise_conv.conv": "0.0",
    "depthwise_conv.bn": "0.1",
    "pointwise_conv.conv": "0.3",
    "pointwise_conv.bn": "1",
}
_SHARED = {
    "backbone.": "encoder.",
    **{f"backbone.stem.{i}.": f"encoder.{name}." for i, name in DEEP_STEM.items()},
    "decode_head.conv_seg.": "segmentation_head.0.",
    **{f"auxiliary_head.convs.0.{k}.": f"auxiliary_head.{v}." for k, v in _CONV_MODULE.items()},
    "auxiliary_head.conv_seg.": "auxiliary_head.4.",
}
_PSPNET = {
    **_SHARED,
    **{
        f"decode_head.psp_modules.{n}.1.{k}.": f"decoder.psp.blocks.{n}.pool.1.{v}."
        for n in range(9)
        for k, v in _CONV_MODULE.items()
    },
    **{f"decode_head.bottleneck.{k}.": f"decoder.conv.{v}." for k, v in _CONV_MODULE.items()},
}
_FCN = {
    **_SHARED,
    **{
        f"decode_head.convs.{n}.{k}.": f"decoder.convs.{n}.{v}."
        for n in range(9)
        for k, v in _CONV_MODULE.items()
    },
    **{f"decode_head.conv_cat.{k}.": f"decoder.conv_cat.{v}." for k, v in _CONV_MODULE.items()},
}
_DEEPLABV3 = {
    **_SHARED,
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
_DEEPLABV3PLUS = {
    **_SHARED,
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
_SEGFORMER = {
    **{
        f"decode_head.convs.{n}.{k}.": f"decoder.mlp_stage.{n}.{v}."
        for n in range(4)
        for k, v in _CONV_MODULE.items()
    },
    **{
        f"decode_head.fusion_conv.{k}.": f"decoder.fuse_stage.{v}." for k, v in _CONV_MODULE.items()
    },
    "decode_head.conv_seg.": "segmentation_head.0.",
}
_UPERNET = {
    **_SHARED,
    **{
        f"decode_head.{theirs}.{k}.": f"decoder.{ours}.{v}."
        for theirs, ours in (
            *((f"psp_modules.{n}.1", f"psp.blocks.{n}.1") for n in range(9)),
            ("bottleneck", "psp.out_conv"),
            # Ours are the coarsest first.
            *(
                (f"lateral_convs.{n}", f"fpn_lateral_blocks.{2 - n}.conv_norm_relu")
                for n in range(3)
            ),
            *((f"fpn_convs.{n}", f"fpn_conv_blocks.{2 - n}") for n in range(3)),
            ("fpn_bottleneck", "fusion_block"),
        )
        for k, v in _CONV_MODULE.items()
    },
}
# A convolution's norm is the next in our sequence, which has the second convolution at 3.
_UNET = {
    **{
        f"backbone.encoder.{n}.{int(n > 0)}.convs.{i}.{k}.": f"down.{n}.{3 * i + int(v)}."
        for n in range(9)
        for i in (0, 1)
        for k, v in _CONV_MODULE.items()
    },
    **{
        f"backbone.decoder.{n}.conv_block.convs.{i}.{k}.": f"up.{n}.convs.{3 * i + int(v)}."
        for n in range(8)
        for i in (0, 1)
        for k, v in _CONV_MODULE.items()
    },
    **{
        f"backbone.decoder.{n}.upsample.interp_upsample.1.{k}.": f"up.{n}.upsample.{v}."
        for n in range(8)
        for k, v in _CONV_MODULE.items()
    },
    # Spelt so there: a transposed convolution and its norm.
    **{
        f"backbone.decoder.{n}.upsample.deconv_upsamping.{i}.": f"up.{n}.deconv.{i}."
        for n in range(8)
        for i in (0, 1)
    },
    **{f"decode_head.convs.0.{k}.": f"head.{v}." for k, v in _CONV_MODULE.items()},
    "decode_head.conv_seg.": "classifier.",
    **{f"auxiliary_head.convs.0.{k}.": f"auxiliary_head.{v}." for k, v in _CONV_MODULE.items()},
    "auxiliary_head.conv_seg.": "auxiliary_head.4.",
}
# What both DeepLabs do differently from smp's: the pooled branch first, then a 3x3 projection.
_DEEPLAB = {
    "align_corners": False,
    "decoder_refine": False,
    "aspp_pooled_first": True,
    "aspp_project_kernel": 3,
}


def _pspnet(state_dict: StateDict) -> dict[str, Any]:
    arguments = {**pspnet_arguments(state_dict), "psp_dropout": 0.1, "align_corners": False}
    return _contracted(arguments)


def _fcn(state_dict: StateDict) -> dict[str, Any]:
    return _contracted({**fcn_arguments(state_dict), "decoder_dropout_of_channels": True})


def _deeplabv3(state_dict: StateDict) -> dict[str, Any]:
    return _contracted({**deeplabv3_arguments(state_dict), **_DEEPLAB, "decoder_aspp_dropout": 0.1})


def _deeplabv3plus(state_dict: StateDict) -> dict[str, Any]:
    """Without mmseg's dropout before the classes."""
    return _contracted(
        {
            **deeplabv3plus_arguments(state_dict),
            **_DEEPLAB,
            "encoder_output_stride": 8,
            "decoder_aspp_separable": True,
            "decoder_aspp_dropout": 0.0,
            "decoder_separable_norm": True,
            "decoder_fusions": 2,
        }
    )


def _segformer(state_dict: StateDict) -> dict[str, Any]:
    """All of its layer norms have the epsilon 1e-6."""
    arguments = segformer_arguments(state_dict)
    options = {**arguments["encoder_options"], "embedding_norm_eps": 1e-6}
    return {
        **arguments,
        "encoder_options": options,
        "decoder_dropout": 0.1,
        "align_corners": False,
    }


def _upernet(state_dict: StateDict) -> dict[str, Any]:
    return {
        **upernet_arguments(state_dict),
        "decoder_dropout": 0.1,
        "align_corners": False,
        **convnext.arguments(state_dict),
    }


def _upernet_encoder(state_dict: StateDict) -> StateDict:
    """The tensors of the encoder as ours: of a ConvNeXt, a Swin, or a ResNet, whose names are."""
    if convnext.is_mmseg(state_dict):
        return convnext.from_mmseg(state_dict)
    return swin_from_mmseg(state_dict)


def _contracted(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "encoder_options": {**arguments["encoder_options"], **CONTRACTED}}


FAMILIES = (
    Family(
        "mmseg-pspnet",
        PSPNet,
        _pspnet,
        ("backbone.", "decode_head.psp_modules.", "decode_head.bottleneck.conv."),
        ("decode_head.lateral_convs.",),
        _PSPNET,
    ),
    Family(
        "mmseg-deeplabv3",
        DeepLabV3,
        _deeplabv3,
        ("backbone.", "decode_head.image_pool.", "decode_head.aspp_modules."),
        ("decode_head.sep_bottleneck.",),
        _DEEPLABV3,
    ),
    Family(
        "mmseg-deeplabv3plus",
        DeepLabV3Plus,
        _deeplabv3plus,
        ("backbone.", "decode_head.image_pool.", "decode_head.sep_bottleneck."),
        names=_DEEPLABV3PLUS,
    ),
    Family(
        "mmseg-segformer",
        SegFormer,
        _segformer,
        ("backbone.layers.0.0.projection.", "decode_head.convs.", "decode_head.fusion_conv."),
        names=_SEGFORMER,
        convert=from_mmseg,
    ),
    Family(
        "mmseg-unet",
        PlainUNet,
        plain_unet_arguments,
        ("backbone.encoder.0.0.convs.", "backbone.decoder.0.upsample.", "decode_head.conv_seg."),
        ("decode_head.psp_modules.", "decode_head.aspp_modules.", "decode_head.conv_cat."),
        _UNET,
    ),
    Family(
        "mmseg-fcn",
        FCN,
        _fcn,
        ("backbone.layer1.", "decode_head.convs.0.conv.", "decode_head.conv_seg."),
        ("decode_head.fusion_conv.",),
        _FCN,
    ),
    Family(
        "mmseg-upernet",
        UPerNet,
        _upernet,
        ("backbone.", "decode_head.lateral_convs.", "decode_head.fpn_bottleneck.bn."),
        names=_UPERNET,
        convert=_upernet_encoder,
    ),
)
