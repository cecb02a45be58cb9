"""Dense CRFs: a trainable layer, and what programs written for pydensecrf use.

`fastseg.crf.DenseCRF` is the layer (an nn.Module). pydensecrf's modules are `fastseg.crf.densecrf`
and `fastseg.crf.utils`: a program needs its imports changed. Of the class names that both have, only
pydensecrf's `DenseCRF` for any number of dimensions stays in there.
"""

from .densecrf import DenseCRF2D
from .kernels import BilateralKernel, FeatureKernel, GaussianKernel, PairwiseKernel
from .module import DenseCRF
from .presets import PRESETS, Preset
from .window import window_filter

__all__ = [
    "PRESETS",
    "BilateralKernel",
    "DenseCRF",
    "DenseCRF2D",
    "FeatureKernel",
    "GaussianKernel",
    "PairwiseKernel",
    "Preset",
    "window_filter",
]
