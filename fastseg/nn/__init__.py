"""Thin modules that hold the parameters of the ops."""

from .aspp import ASPP
from .attention import Attention, SCSEAttention
from .chain import Chain
from .conv import DilatedConv2d
from .deconv import BilinearDeconv2d, bilinear_kernel
from .fusion import fuse
from .heads import AuxiliaryHead, ClassificationHead, SegmentationHead, make_activation
from .losses import (
    BCEWithLogitsLoss,
    CombinedLoss,
    DiceLoss,
    DistillationLoss,
    FocalLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LovaszLoss,
    OhemCrossEntropy,
    RegionLoss,
    SumsLoss,
    TverskyLoss,
    UpsampleCrossEntropy,
    boundary_weight,
    parse_loss,
)
from .mlp_head import mlp_fuse
from .norm import make_norm
from .pyramid import PyramidPooling
from .pyramid_conv import pyramid_conv2d
from .separable import SeparableConv2d, upsample_separable_conv2d
from .unet import UnetBlock

__all__ = [
    "ASPP",
    "Attention",
    "AuxiliaryHead",
    "BCEWithLogitsLoss",
    "BilinearDeconv2d",
    "Chain",
    "ClassificationHead",
    "CombinedLoss",
    "DiceLoss",
    "DilatedConv2d",
    "DistillationLoss",
    "FocalLoss",
    "GeneralizedDiceLoss",
    "JaccardLoss",
    "LovaszLoss",
    "OhemCrossEntropy",
    "PyramidPooling",
    "RegionLoss",
    "SCSEAttention",
    "SegmentationHead",
    "SeparableConv2d",
    "SumsLoss",
    "TverskyLoss",
    "UnetBlock",
    "UpsampleCrossEntropy",
    "bilinear_kernel",
    "boundary_weight",
    "fuse",
    "make_activation",
    "make_norm",
    "mlp_fuse",
    "parse_loss",
    "pyramid_conv2d",
    "upsample_separable_conv2d",
]
