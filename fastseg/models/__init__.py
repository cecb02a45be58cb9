"""Whole networks, and the checkpoints they load."""

from .architectures import (
    ARCHITECTURES,
    FCN,
    DeepLabV3,
    DeepLabV3Plus,
    PSPNet,
    SegFormer,
    Segformer,
    Unet,
)
from .base import SegmentationModel
from .checkpoints import load_checkpoint
from .default import default_model
from .encoders import ENCODERS, make_encoder
from .fcn_vgg import FCNVGG16
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2
from .u2net import U2Net

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "FCN",
    "FCNVGG16",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "SegFormer",
    "Segformer",
    "SegmentationModel",
    "TFDeepLabMobileNetV2",
    "U2Net",
    "Unet",
    "default_model",
    "load_checkpoint",
    "make_encoder",
]
