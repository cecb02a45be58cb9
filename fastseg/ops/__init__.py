"""The ops. One folder each: the public function, its contract (op.py) and its backends."""

from .upsample_bilinear import upsample_bilinear

__all__ = ["upsample_bilinear"]
