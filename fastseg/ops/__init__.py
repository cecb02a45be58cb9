"""The ops. One folder each: the public function, its contract (op.py) and its backends."""

from .pyramid_pool import pyramid_pool
from .upsample_bilinear import upsample_bilinear

__all__ = ["pyramid_pool", "upsample_bilinear"]
