"""Small data sets and a small model, for the tests of training and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import nn

from fastseg.classes import ClassSet, numbered_classes
from fastseg.data import Split, labelling_of, open_data_set
from fastseg.models import SegmentationModel

CLASSES = numbered_classes(3)
_PALETTE = numpy.array([[40, 40, 40], [220, 50, 40], [40, 90, 230]])


def make_pair(rng: numpy.random.Generator, size: tuple[int, int]) -> tuple[numpy.ndarray, ...]:
    """A noisy image whose colours tell its classes, and its labels, some of them 255."""
    height, width = size
    label = numpy.zeros(size, dtype=numpy.uint8)
    y, x = rng.integers(8, height // 2), rng.integers(0, width // 2)
    label[y : y + height // 3, x : x + width // 3] = 1
    label[:6] = 2
    noise = rng.integers(-20, 21, (*size, 3))
    image = (_PALETTE[label] + noise).clip(0, 255).astype(numpy.uint8)
    label[-3:] = 255
    return image, label


def make_dataset(
    root: Path, counts: dict[str, int], size: tuple[int, int] = (48, 64), *, names: bool = True
) -> Path:
    """Writes images/SPLIT/N.png and labels/SPLIT/N.png, and classes.json unless names is False."""
    rng = numpy.random.default_rng(0)
    for split, count in counts.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, label = make_pair(rng, size)
            Image.fromarray(image).save(root / "images" / split / f"{index}.png")
            Image.fromarray(label).save(root / "labels" / split / f"{index}.png")
    if names:
        (root / "classes.json").write_text(json.dumps({"classes": ["ground", "box", "sky"]}))
    return root


def read(root: Path, split: str, cache_bytes: int = 1 << 30) -> Split:
    data = open_data_set(root)
    labelling, _ = labelling_of(data, data.splits[split])
    return Split(split, data.splits[split], labelling, cache_bytes=cache_bytes)


class TinyModel(SegmentationModel):
    """Three convolutions to logits at stride 4, with batch norm and dropout."""

    size_step = 4
    working_size = 64

    def __init__(self, classes: ClassSet = CLASSES, dropout: float = 0.1) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12, bias=False),
            nn.BatchNorm2d(12),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(12, len(classes), 1),
        )

    def coarse_logits(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(self.pad(x))
