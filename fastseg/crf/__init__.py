"""Dense CRFs: mean-field inference, a trainable layer, and pydensecrf's interface.

`fastseg.crf.DenseCRF` is the layer (an nn.Module). pydensecrf's modules are `fastseg.crf.densecrf`
and `fastseg.crf.utils`: a program only needs its imports changed. pydensecrf's own `DenseCRF`, of
any number of dimensions, is `fastseg.crf.densecrf.DenseCRF`.
"""

from ..ops.permutohedral_filter import Lattice
from ..ops.window_filter import window_filter
from .densecrf import DenseCRF2D
from .kernels import BilateralKernel, FeatureKernel, GaussianKernel, PairwiseKernel
from .mean_field import Kernel, mean_field, mean_field_labels
from .module import DenseCRF
from .presets import PRESETS, Preset
from .workspaces import limit_workspaces

__all__ = [
    "PRESETS",
    "BilateralKernel",
    "DenseCRF",
    "DenseCRF2D",
    "FeatureKernel",
    "GaussianKernel",
    "Kernel",
    "Lattice",
    "PairwiseKernel",
    "Preset",
    "limit_workspaces",
    "mean_field",
    "mean_field_labels",
    "window_filter",
]
