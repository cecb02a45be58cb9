"""Whole networks, and the checkpoints they load."""

from .architectures import (
    ARCHITECTURES,
    DeepLabV3,
    DeepLabV3Plus,
    PSPNet,
    SegFormer,
    Segformer,
    Unet,
    UPerNet,
)
from .base import SegmentationModel
from .checkpoints import load_checkpoint
from .create import create_model
from .default import default_model
from .encoders import ENCODERS, get_preprocessing_fn, get_preprocessing_params, make_encoder
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2

__all__ = [
    "ARCHITECTURES",
    "ENCODERS",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "SegFormer",
    "Segformer",
    "SegmentationModel",
    "TFDeepLabMobileNetV2",
    "UPerNet",
    "Unet",
    "create_model",
    "default_model",
    "get_preprocessing_fn",
    "get_preprocessing_params",
    "load_checkpoint",
    "make_encoder",
]
