"""Whole networks, and the checkpoints they load."""

from .architectures import (
    ARCHITECTURES,
    FCN,
    FCNVGG16,
    FPN,
    LRASPP,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    PlainUNet,
    PSPNet,
    SegFormer,
    Segformer,
    U2Net,
    Unet,
    UPerNet,
)
from .base import SegmentationModel
from .checkpoints import export_checkpoint, load_checkpoint
from .create import create_model
from .default import default_model
from .encoders import ENCODERS, get_preprocessing_fn, get_preprocessing_params, make_encoder
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "FCN",
    "FCNVGG16",
    "FPN",
    "LRASPP",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "PlainUNet",
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
