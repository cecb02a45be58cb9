"""FCN-32s, FCN-16s and FCN-8s of wkentaro's pytorch-fcn, whose names are ours."""

from __future__ import annotations

from typing import Any

from ..fcn_vgg import FCNVGG16
from ..files import StateDict
from .encoders import size_of
from .family import Family


def _fcn(state_dict: StateDict) -> dict[str, Any]:
    """Caffe's weights, for BGR; whether they were trained at once is not in them."""
    last = {"upscore.weight": 32, "upscore16.weight": 16}
    return {
        "classes": size_of(state_dict, "score_fr.weight", 0, 21),
        "stride": next((stride for key, stride in last.items() if key in state_dict), 8),
        "in_channels": size_of(state_dict, "conv1_1.weight", 1, 3),
        "widths": [size_of(state_dict, f"conv{n}_1.weight", 0, 512) for n in range(1, 6)],
        "hidden": size_of(state_dict, "fc6.weight", 0, 4096),
        "learned_deconvolutions": "all",
        "bgr": True,
    }


FAMILIES = (Family("pytorch-fcn", FCNVGG16, _fcn, ("conv1_1.", "fc6.", "score_fr.")),)
