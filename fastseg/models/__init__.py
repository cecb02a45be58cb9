"""Whole networks, and the checkpoints they load."""

from .base import SegmentationModel
from .checkpoints import load_checkpoint
from .deeplabv3 import DeepLabV3, DeepLabV3Plus
from .default import default_model
from .encoders import ENCODERS, make_encoder
from .pspnet import PSPNet
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2

__all__ = [
    "ENCODERS",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "SegmentationModel",
    "TFDeepLabMobileNetV2",
    "default_model",
    "load_checkpoint",
    "make_encoder",
]
