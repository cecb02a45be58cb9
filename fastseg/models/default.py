"""The model that ships with the package."""

from __future__ import annotations

from pathlib import Path

from .base import SegmentationModel

# config.json and model.safetensors (float16), and how they were made: README.md.
FOLDER = Path(__file__).with_name("default")
NAME = "deeplabv3plus-mobilenetv2-camvid"


def default_model() -> SegmentationModel:
    """DeepLabV3+ with a MobileNetV2, trained on CamVid's street scenes: 11 classes.

    Its weights are made from CamVid and, as that, for non-commercial research only.

    Returns:
        The model in eval mode, float32, on the CPU.

    Raises:
        ValueError: safetensors is not installed, or the installation is damaged.
    """
    model: SegmentationModel = SegmentationModel.from_pretrained(FOLDER)
    return model
