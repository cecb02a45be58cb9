"""Whole networks, and the checkpoints they load."""

from .base import SegmentationModel
from .checkpoints import load_checkpoint
from .tf_deeplab_mobilenetv2 import TFDeepLabMobileNetV2

__all__ = ["SegmentationModel", "TFDeepLabMobileNetV2", "load_checkpoint"]
