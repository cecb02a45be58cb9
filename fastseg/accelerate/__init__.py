"""fastseg's kernels inside the models of torchvision, smp and transformers."""

from .api import accelerate, predict, predict_labels, restore
from .report import Report, Row

__all__ = ["Report", "Row", "accelerate", "predict", "predict_labels", "restore"]
