"""fastseg: fast, small in memory and reproducible semantic segmentation in PyTorch."""

from ._version import __version__
from .backends import Backend, BackendUnavailable, use_backend
from .models import load_checkpoint
from .ops import upsample_bilinear

__all__ = [
    "Backend",
    "BackendUnavailable",
    "__version__",
    "load_checkpoint",
    "upsample_bilinear",
    "use_backend",
]
