"""fastseg: fast, small in memory and reproducible semantic segmentation in PyTorch."""

from ._version import __version__
from .backends import Backend, BackendUnavailable, use_backend
from .ops import dilated_conv2d, upsample_bilinear

__all__ = [
    "Backend",
    "BackendUnavailable",
    "__version__",
    "dilated_conv2d",
    "upsample_bilinear",
    "use_backend",
]
