"""fastseg: fast, small in memory and reproducible semantic segmentation in PyTorch."""

from ._version import __version__
from .accelerate import accelerate, predict, restore
from .backends import Backend, BackendUnavailable, use_backend
from .models import DeepLabV3, DeepLabV3Plus, PSPNet, load_checkpoint
from .ops import (
    dilated_conv2d,
    pyramid_pool,
    upsample_argmax,
    upsample_bilinear,
    upsample_confusion_matrix,
    upsample_conv2d,
    upsample_cross_entropy,
)

__all__ = [
    "Backend",
    "BackendUnavailable",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "__version__",
    "accelerate",
    "dilated_conv2d",
    "load_checkpoint",
    "predict",
    "pyramid_pool",
    "restore",
    "upsample_argmax",
    "upsample_bilinear",
    "upsample_confusion_matrix",
    "upsample_conv2d",
    "upsample_cross_entropy",
    "use_backend",
]
