"""Thin modules that hold the parameters of the ops."""

from .aspp import ASPP
from .chain import Chain
from .conv import DilatedConv2d
from .heads import AuxiliaryHead, ClassificationHead, SegmentationHead
from .pyramid import PyramidPooling
from .separable import SeparableConv2d

__all__ = [
    "ASPP",
    "AuxiliaryHead",
    "Chain",
    "ClassificationHead",
    "DilatedConv2d",
    "PyramidPooling",
    "SegmentationHead",
    "SeparableConv2d",
]
