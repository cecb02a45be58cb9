"""segmentation_models_pytorch, whose names are ours."""

from __future__ import annotations

from ..deeplabv3 import DeepLabV3, DeepLabV3Plus
from ..fpn import FPN
from ..pspnet import PSPNet
from ..segformer import SegFormer
from ..unet import Unet
from ..upernet import UPerNet
from .arguments import (
    deeplabv3_arguments,
    deeplabv3plus_arguments,
    fpn_arguments,
    pspnet_arguments,
    segformer_arguments,
    unet_arguments,
    upernet_arguments,
)
from .family import Family

FAMILIES = (
    Family(
        "smp-deeplabv3plus",
        DeepLabV3Plus,
        deeplabv3plus_arguments,
        ("encoder.", "decoder.aspp.0.", "decoder.block1.", "segmentation_head."),
    ),
    Family(
        "smp-deeplabv3",
        DeepLabV3,
        deeplabv3_arguments,
        ("encoder.", "decoder.aspp.convs.", "decoder.conv.", "segmentation_head."),
    ),
    Family(
        "smp-segformer",
        SegFormer,
        segformer_arguments,
        ("encoder.", "decoder.mlp_stage.", "decoder.fuse_stage.", "segmentation_head."),
    ),
    Family(
        "smp-upernet",
        UPerNet,
        upernet_arguments,
        ("encoder.", "decoder.psp.out_conv.", "decoder.fpn_conv_blocks.", "segmentation_head."),
    ),
    Family(
        "smp-pspnet",
        PSPNet,
        pspnet_arguments,
        ("encoder.", "decoder.psp.blocks.", "decoder.conv.", "segmentation_head."),
    ),
    Family(
        "smp-fpn",
        FPN,
        fpn_arguments,
        ("encoder.", "decoder.p5.", "decoder.seg_blocks.", "segmentation_head."),
    ),
    Family(
        "smp-unet",
        Unet,
        unet_arguments,
        (
            "encoder.",
            "decoder.blocks.0.conv1.0.",
            "decoder.blocks.0.conv2.0.",
            "segmentation_head.",
        ),
    ),
)
