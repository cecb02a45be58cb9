"""Whole images: sliding windows, test-time augmentation, images larger than memory, CUDA graphs."""

from .augmentation import augmented_probabilities
from .graph import CapturedPredict, capture
from .sliding_window import SlidingWindow, predict_sliding_window, sliding_window_scores
from .tiles import predict_tiled, receptive_field

__all__ = [
    "CapturedPredict",
    "SlidingWindow",
    "augmented_probabilities",
    "capture",
    "predict_sliding_window",
    "predict_tiled",
    "receptive_field",
    "sliding_window_scores",
]
