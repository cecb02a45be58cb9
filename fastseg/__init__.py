"""fastseg: fast, small in memory and reproducible semantic segmentation in PyTorch."""

from typing import TYPE_CHECKING

from . import crf, inference, metrics, models, nn, ops
from ._version import __version__
from .accelerate import predict, predict_instances, predict_labels, predict_panoptic, restore
from .backends import Backend, BackendUnavailable, use_backend
from .inference import capture
from .limits import use_limits
from .models import (
    FCN,
    FCNVGG16,
    FPN,
    LRASPP,
    DeepLabV1,
    DeepLabV2,
    DeepLabV3,
    DeepLabV3Plus,
    PlainUNet,
    PSPNet,
    SegFormer,
    Segformer,
    U2Net,
    Unet,
    UPerNet,
    create_model,
    get_preprocessing_fn,
    get_preprocessing_params,
    load_checkpoint,
)
from .nn import fuse
from .ops import (
    attention_2d_bias,
    deformable_attention,
    dilated_conv2d,
    gaussian_filter,
    mask_argmax,
    mask_confusion_matrix,
    mask_scores,
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

# At run time the package itself, which can be called, so that its modules are found under it.
if TYPE_CHECKING:
    from .accelerate import accelerate
else:
    from . import accelerate

__all__ = [
    "FCN",
    "FCNVGG16",
    "FPN",
    "LRASPP",
    "Backend",
    "BackendUnavailable",
    "DeepLabV1",
    "DeepLabV2",
    "DeepLabV3",
    "DeepLabV3Plus",
    "PSPNet",
    "PlainUNet",
    "SegFormer",
    "Segformer",
    "U2Net",
    "UPerNet",
    "Unet",
    "__version__",
    "accelerate",
    "attention_2d_bias",
    "capture",
    "check_targets",
    "create_model",
    "crf",
    "deformable_attention",
    "dilated_conv2d",
    "fuse",
    "gaussian_filter",
    "get_preprocessing_fn",
    "get_preprocessing_params",
    "inference",
    "load_checkpoint",
    "mask_argmax",
    "mask_confusion_matrix",
    "mask_scores",
    "metrics",
    "models",
    "nn",
    "ops",
    "permutohedral_filter",
    "predict",
    "predict_instances",
    "predict_labels",
    "predict_panoptic",
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
