"""The table of the architectures: a new one is imported and listed here, and known everywhere."""

from __future__ import annotations

from .base import SegmentationModel
from .deeplabv2 import DeepLabV1, DeepLabV2
from .deeplabv3 import DeepLabV3, DeepLabV3Plus
from .fcn import FCN
from .pspnet import PSPNet
from .segformer import SegFormer, Segformer
from .unet import Unet
from .upernet import UPerNet

__all__ = [
    "ARCHITECTURES",
    "FCN",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "SegFormer",
    "Segformer",
    "UPerNet",
    "Unet",
]

# Name on the command line and in training checkpoints -> class.
ARCHITECTURES: dict[str, type[SegmentationModel]] = {
    cls.__name__.lower(): cls
    for cls in (
        DeepLabV1,
        DeepLabV2,
        DeepLabV3,
        DeepLabV3Plus,
        FCN,
        PSPNet,
        SegFormer,
        Unet,
        UPerNet,
    )
}
