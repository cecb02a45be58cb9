"""Whole networks, and the checkpoints they load."""

from .base import SegmentationModel
from .checkpoints import load_checkpoint
from .deeplabv3 import DeepLabV3, DeepLabV3Plus
from .encoders import ENCODERS, make_encoder
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2

__all__ = [
    "ENCODERS",
    "DeepLabV3",
    "DeepLabV3Plus",
    "SegmentationModel",
    "TFDeepLabMobileNetV2",
    "load_checkpoint",
    "make_encoder",
]
