"""Data sets in folders, and the random views of them that training sees. Needs Pillow."""

from .augment import Augmentation
from .batches import Batch, Batches, Sampler
from .classes_file import IGNORE, DatasetError, Labelling
from .folder import Pair, Split, find_splits, labelling_of, pair_files, read_label
from .images import ImageError, read_image

__all__ = [
    "IGNORE",
    "Augmentation",
    "Batch",
    "Batches",
    "DatasetError",
    "ImageError",
    "Labelling",
    "Pair",
    "Sampler",
    "Split",
    "find_splits",
    "labelling_of",
    "pair_files",
    "read_image",
    "read_label",
]
