"""fastseg's kernels inside the models of torchvision, smp and transformers.

The package can be called: `fastseg.accelerate(model)` is `fastseg.accelerate.accelerate(model)`,
and `fastseg.accelerate.report` is still the module inside.
"""

import functools
import sys
import types
from typing import Any

from .api import accelerate, predict, predict_labels, restore
from .predict_segments import predict_instances, predict_panoptic
from .report import Report, Row

__all__ = [
    "Report",
    "Row",
    "accelerate",
    "predict",
    "predict_instances",
    "predict_labels",
    "predict_panoptic",
    "restore",
]


class _Callable(types.ModuleType):
    @functools.wraps(accelerate)
    def __call__(self, *args: Any, **kwargs: Any) -> Report:
        return accelerate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
