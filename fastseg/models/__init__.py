"""Whole networks, and the checkpoints they load."""

from .architectures import (
    ARCHITECTURES,
    FCN,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    PSPNet,
    SegFormer,
    Segformer,
    Unet,
    UPerNet,
)
from .base import SegmentationModel
from .checkpoints import export_checkpoint, load_checkpoint
from .create import create_model
from .default import default_model
from .encoders import ENCODERS, get_preprocessing_fn, get_preprocessing_params, make_encoder
from .fcn_vgg import FCNVGG16
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2
from .u2net import U2Net

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "FCN",
    "FCNVGG16",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "SegFormer",
    "Segformer",
    "SegmentationModel",
    "TFDeepLabMobileNetV2",
    "U2Net",
    "UPerNet",
    "Unet",
    "create_model",
    "default_model",
    "export_checkpoint",
    "get_preprocessing_fn",
    "get_preprocessing_params",
    "load_checkpoint",
    "make_encoder",
]
