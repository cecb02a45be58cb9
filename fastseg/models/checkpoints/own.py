"""Our own names, for the architectures that are in none of the libraries whose names are ours."""

from __future__ import annotations

from ..deeplabv2 import DeepLabV1, DeepLabV2
from ..fcn import FCN
from ..lraspp import LRASPP
from ..plain_unet import PlainUNet
from .arguments import (
    deeplabv1_arguments,
    deeplabv2_arguments,
    fcn_arguments,
    lraspp_arguments,
    plain_unet_arguments,
)
from .family import Family

FAMILIES = (
    Family("fastseg-fcn", FCN, fcn_arguments, ("encoder.", "decoder.convs.", "segmentation_head.")),
    Family(
        "fastseg-deeplabv1",
        DeepLabV1,
        deeplabv1_arguments,
        ("encoder.", "decoder.branches.0.6."),
        ("decoder.branches.1.",),
    ),
    Family(
        "fastseg-deeplabv2",
        DeepLabV2,
        deeplabv2_arguments,
        ("encoder.", "decoder.branches.0."),
    ),
    Family(
        "fastseg-plainunet",
        PlainUNet,
        plain_unet_arguments,
        ("down.1.0.", "up.0.convs.", "classifier."),
    ),
    Family(
        "fastseg-lraspp",
        LRASPP,
        lraspp_arguments,
        ("encoder.", "decoder.cbr.", "decoder.low_classifier."),
    ),
)
