"""Whole images: sliding windows, test-time augmentation, and images larger than memory."""

from .augmentation import augmented_probabilities
from .sliding_window import SlidingWindow, predict_sliding_window, sliding_window_scores
from .tiles import predict_tiled, receptive_field

__all__ = [
    "SlidingWindow",
    "augmented_probabilities",
    "predict_sliding_window",
    "predict_tiled",
    "receptive_field",
    "sliding_window_scores",
]
