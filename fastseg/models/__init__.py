"""Whole networks, and the checkpoints they load."""

from .architectures import (
    ARCHITECTURES,
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
    "Unet",
    "default_model",
    "load_checkpoint",
    "make_encoder",
]
