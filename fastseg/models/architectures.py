"""The table of the architectures: a new one is imported and listed here, and known everywhere."""

from __future__ import annotations

import inspect

from .base import SegmentationModel
from .deeplabv2 import DeepLabV1, DeepLabV2
from .deeplabv3 import DeepLabV3, DeepLabV3Plus
from .fcn import FCN
from .fcn_vgg import FCNVGG16
from .fpn import FPN
from .lraspp import LRASPP
from .plain_unet import PlainUNet
from .pspnet import PSPNet
from .segformer import SegFormer, Segformer
from .u2net import U2Net
from .unet import Unet
from .upernet import UPerNet

__all__ = [
    "ARCHITECTURES",
    "FCN",
    "FCNVGG16",
    "FPN",
    "LRASPP",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "PlainUNet",
    "SegFormer",
    "Segformer",
    "U2Net",
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
        FCNVGG16,
        FPN,
        LRASPP,
        PlainUNet,
        PSPNet,
        SegFormer,
        U2Net,
        Unet,
        UPerNet,
    )
}


def takes_encoder(architecture: str) -> bool:
    """Whether a model is made over an encoder that one chooses; others have their own layers.

    Args:
        architecture: key of ARCHITECTURES.
    """
    constructor = ARCHITECTURES[architecture].__init__
    return "encoder_name" in inspect.signature(constructor).parameters
