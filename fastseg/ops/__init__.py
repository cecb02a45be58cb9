"""The ops. One folder each: the public function, its contract (op.py) and its backends."""

from .attention_2d_bias import attention_2d_bias
from .deformable_attention import deformable_attention
from .dilated_conv2d import dilated_conv2d
from .gaussian_filter import gaussian_filter
from .mask_argmax import mask_argmax, mask_confusion_matrix, mask_scores
from .permutohedral_filter import permutohedral_filter
from .pyramid_pool import pyramid_pool
from .upsample_argmax import upsample_argmax
from .upsample_bilinear import upsample_bilinear
from .upsample_class_sums import upsample_class_sums
from .upsample_confusion_matrix import upsample_confusion_matrix
from .upsample_conv2d import upsample_conv2d
from .upsample_cross_entropy import upsample_cross_entropy
from .upsample_taps import upsample_taps
from .window_filter import window_filter

__all__ = [
    "attention_2d_bias",
    "deformable_attention",
    "dilated_conv2d",
    "gaussian_filter",
    "mask_argmax",
    "mask_confusion_matrix",
    "mask_scores",
    "permutohedral_filter",
    "pyramid_pool",
    "upsample_argmax",
    "upsample_bilinear",
    "upsample_class_sums",
    "upsample_confusion_matrix",
    "upsample_conv2d",
    "upsample_cross_entropy",
    "upsample_taps",
    "window_filter",
]
