"""Data sets in common layouts, and random views for training. Needs Pillow."""

from .augment import Augmentation
from .batches import Batch, Batches, Sampler
from .classes_file import Declared, model_classes
from .images import ImageError, image_bands, read_image
from .label_options import LabelOptions, label_options
from .labelling import IGNORE, DatasetError, Labelling
from .layouts import LAYOUTS, DataSet, Pair, open_data_set
from .reading import check_sense, labelling_of
from .split import Split

__all__ = [
    "IGNORE",
    "LAYOUTS",
    "Augmentation",
    "Batch",
    "Batches",
    "DataSet",
    "DatasetError",
    "Declared",
    "ImageError",
    "LabelOptions",
    "Labelling",
    "Pair",
    "Sampler",
    "Split",
    "check_sense",
    "image_bands",
    "label_options",
    "labelling_of",
    "model_classes",
    "open_data_set",
    "read_image",
]
