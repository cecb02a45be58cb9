"""Segment Anything: encoder, prompts, mask decoder, and a predictor with the official names."""

from .checkpoints import load_sam, sam_model_registry
from .model import SAM
from .predictor import SamPredictor

__all__ = ["SAM", "SamPredictor", "load_sam", "sam_model_registry"]
