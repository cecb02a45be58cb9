"""Thin modules that hold the parameters of the ops."""

from .aspp import ASPP
from .conv import ConvNormAct, DilatedConv2d
from .heads import AuxiliaryHead, ClassificationHead, SegmentationHead
from .pyramid import PyramidPooling
from .separable import SeparableConv2d

__all__ = [
    "ASPP",
    "AuxiliaryHead",
    "ClassificationHead",
    "ConvNormAct",
    "DilatedConv2d",
    "PyramidPooling",
    "SegmentationHead",
    "SeparableConv2d",
]
