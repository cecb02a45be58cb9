"""Thin modules that hold the parameters of the ops."""

from .aspp import ASPP
from .chain import Chain
from .conv import DilatedConv2d
from .fusion import fuse
from .heads import AuxiliaryHead, ClassificationHead, SegmentationHead, make_activation
from .loss import UpsampleCrossEntropy
from .mlp_head import mlp_fuse
from .norm import make_norm
from .pyramid import PyramidPooling
from .pyramid_conv import pyramid_conv2d
from .separable import SeparableConv2d, upsample_separable_conv2d

__all__ = [
    "ASPP",
    "AuxiliaryHead",
    "Chain",
    "ClassificationHead",
    "DilatedConv2d",
    "PyramidPooling",
    "SegmentationHead",
    "SeparableConv2d",
    "UpsampleCrossEntropy",
    "fuse",
    "make_activation",
    "make_norm",
    "mlp_fuse",
    "pyramid_conv2d",
    "upsample_separable_conv2d",
]
