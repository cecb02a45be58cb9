"""The ops. One folder each: the public function, its contract (op.py) and its backends."""

from .dilated_conv2d import dilated_conv2d
from .upsample_bilinear import upsample_bilinear

__all__ = ["dilated_conv2d", "upsample_bilinear"]
