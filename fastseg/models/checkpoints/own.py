"""Our own names, for the architectures that are in none of the libraries whose names are ours."""

from __future__ import annotations

from ..deeplabv2 import DeepLabV1, DeepLabV2
from ..fcn import FCN
from .arguments import deeplabv1_arguments, deeplabv2_arguments, fcn_arguments
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
)
