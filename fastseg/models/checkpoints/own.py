"""Our own names, for the architectures that are in none of the libraries whose names are ours."""

from __future__ import annotations

from ..fcn import FCN
from .arguments import fcn_arguments
from .family import Family

FAMILIES = (
    Family("fastseg-fcn", FCN, fcn_arguments, ("encoder.", "decoder.convs.", "segmentation_head.")),
)
