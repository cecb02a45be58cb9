"""A pytest plugin: segmentation_models_pytorch's own tests, run on fastseg's classes.

Its names of the architectures that we have stand for ours, always with random weights (its tests
would download some). The others stay its own, and `test_smp_suite.py` does not run their tests.
"""

from __future__ import annotations

import functools
import sys
import types
from typing import Any

from fastseg.testing.peers import declare_torchvision_ops

declare_torchvision_ops()
try:
    import git  # noqa: F401
except ImportError:  # its tests ask for their own revision, and do without
    sys.modules["git"] = types.ModuleType("git")
    sys.modules["git"].Repo = lambda *_: (_ for _ in ()).throw(OSError)  # type: ignore[attr-defined]

import segmentation_models_pytorch as smp  # noqa: E402

import fastseg  # noqa: E402
from fastseg.models import SegmentationModel  # noqa: E402


def _offline(architecture: Any) -> Any:
    @functools.wraps(architecture)
    def make(*args: Any, **kwargs: Any) -> Any:
        return architecture(*args, **{**kwargs, "encoder_weights": None})

    return make


for _key, _architecture in list(smp.MODEL_ARCHITECTURES_MAPPING.items()):
    _name = _architecture.__name__
    if hasattr(fastseg, _name):
        _made = _offline(getattr(fastseg, _name))
        setattr(smp, _name, _made)
        smp.MODEL_ARCHITECTURES_MAPPING[_key] = _made
smp.from_pretrained = SegmentationModel.from_pretrained


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """Takes an encoder that we have in place of a tiny one of timm's."""
    for item in items:
        if hasattr(item.cls, "test_encoder_name"):
            item.cls.test_encoder_name = "resnet18"
