"""Files of data sets, for the tests of layouts."""

from __future__ import annotations

from pathlib import Path

import numpy
from label_cases import SIZE, classes_map, palette_image
from PIL import Image

from fastseg.classes import voc_colors
from fastseg.data import open_data_set

MAP = classes_map(3)


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = numpy.random.default_rng(0).integers(0, 256, (*size, 3), dtype="uint8")
    Image.fromarray(values).save(path)
    return path


def label(path: Path, values: numpy.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def lines(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def counts(root: Path, layout: str) -> dict[str, int]:
    """The splits that are found, and that the layout is found without being named."""
    data = open_data_set(root)
    assert data.layout == layout
    forced = open_data_set(data.root, layout)
    assert {name: len(pairs) for name, pairs in forced.splits.items()} == {
        name: len(pairs) for name, pairs in data.splits.items()
    }
    assert data.line(data.splits).startswith(f"layout {layout}: ")
    return {name: len(pairs) for name, pairs in data.splits.items()}


def voc(root: Path) -> Path:
    for name in ("a", "b", "c", "only_photo"):
        photo(root / "JPEGImages" / f"{name}.jpg")
    for name in ("a", "b", "c"):
        values = MAP.copy()
        values[0] = 255
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        palette_image(values, numpy.array(voc_colors(256))).save(path)
    sets = root / "ImageSets" / "Segmentation"
    lines(sets / "train.txt", "a", "b", "only_photo")
    lines(sets / "val.txt", "c")
    lines(sets / "test.txt", "only_photo")
    return root
