"""fastseg: fast, small in memory and reproducible semantic segmentation in PyTorch."""

from . import crf
from ._version import __version__
from .accelerate import accelerate, predict, predict_labels, restore
from .backends import Backend, BackendUnavailable, use_backend
from .inference import capture
from .limits import use_limits
from .models import DeepLabV3, DeepLabV3Plus, PSPNet, load_checkpoint
from .nn import fuse
from .ops import (
    dilated_conv2d,
    gaussian_filter,
    permutohedral_filter,
    pyramid_pool,
    upsample_argmax,
    upsample_bilinear,
    upsample_class_sums,
    upsample_confusion_matrix,
    upsample_conv2d,
    upsample_cross_entropy,
    window_filter,
)
from .target_checks import check_targets

__all__ = [
    "Backend",
    "BackendUnavailable",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "__version__",
    "accelerate",
    "capture",
    "check_targets",
    "crf",
    "dilated_conv2d",
    "fuse",
    "gaussian_filter",
    "load_checkpoint",
    "permutohedral_filter",
    "predict",
    "predict_labels",
    "pyramid_pool",
    "restore",
    "upsample_argmax",
    "upsample_bilinear",
    "upsample_class_sums",
    "upsample_confusion_matrix",
    "upsample_conv2d",
    "upsample_cross_entropy",
    "use_backend",
    "use_limits",
    "window_filter",
]
