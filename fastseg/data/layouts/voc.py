"""PASCAL VOC: JPEGImages, SegmentationClass, and lists of names in ImageSets/Segmentation."""

from __future__ import annotations

import re
from pathlib import Path

from ...classes import VOC, ClassSet, Color, bright_colors
from ..classes_file import Declared, class_set
from ..label_files import color_code
from ..labelling import IGNORE, DatasetError
from .base import Found, Layout, Pair
from .files import by_name, listed, listed_name

_VOID_COLOR = (224, 224, 192)  # of the borders of objects
# The second holds the labels of 10,582 images that were drawn later.
_LABEL_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
PALETTE = Declared(
    VOC,
    "PASCAL VOC",
    colors={color_code(color): index for index, color in enumerate(VOC.colors)}
    | {color_code(_VOID_COLOR): IGNORE},
    void=frozenset({IGNORE}),
    own=False,
)


def _lists(root: Path) -> list[Path]:
    return sorted((root / "ImageSets" / "Segmentation").glob("*.txt"))


def matches(root: Path) -> bool:
    return (root / "JPEGImages").is_dir() and bool(_lists(root))


def read(root: Path) -> Found:
    if not matches(root):
        raise DatasetError(f"{root}: expected {LAYOUT.form}")
    images = by_name(root / "JPEGImages")
    labels: dict[str, Path] = {}
    for folder in _LABEL_FOLDERS:
        if (root / folder).is_dir():
            labels = by_name(root / folder) | labels
    splits: dict[str, list[Pair]] = {}
    notes = []
    for path in _lists(root):
        # "name" or "/JPEGImages/name.jpg /SegmentationClassAug/name.png".
        names = sorted({listed_name(line, images) for line in listed(path)})
        if missing := [name for name in names if name not in images]:
            raise DatasetError(f"{path}: names {missing[0]}, which is not in {root / 'JPEGImages'}")
        pairs = [Pair(name, images[name], labels[name]) for name in names if name in labels]
        if pairs:
            splits[path.stem] = pairs
        if len(pairs) < len(names):
            notes.append(f"{len(names) - len(pairs)} of {len(names)} images of {path.name} have no "
                         "labels and are left out")  # fmt: skip
    if not splits:
        raise DatasetError(f"{root}: no image that the lists name has a file in SegmentationClass")
    return Found(splits, _declared(root) or PALETTE, tuple(notes))


def _declared(root: Path) -> Declared | None:
    """The classes of a data set of one's own that was exported in this layout."""
    if (path := root / "labelmap.txt").is_file():  # name:red,green,blue:parts:actions
        rows = [line.split(":") for line in listed(path) if not line.startswith("#")]
        colors = [_color(path, row[1] if len(row) > 1 else "") for row in rows]
        return _named(path, [row[0] for row in rows], colors)
    if (path := root / "class_names.txt").is_file():
        names = [name for name in listed(path) if name != "__ignore__"]
        return _named(path, ["background" if n == "_background_" else n for n in names], None)
    return None


def _named(path: Path, names: list[str], colors: list[Color] | None) -> Declared:
    if not 1 <= len(names) < IGNORE or len(set(names)) < len(names):
        raise DatasetError(f"{path}: expected 1 to {IGNORE - 1} names that differ")
    if colors is None:
        return Declared(class_set(tuple(names)), str(path))
    background = names.index("background") if "background" in names else None
    classes = ClassSet(tuple(names), tuple(colors), bright_colors(len(names)), background)
    meaning = {color_code(color): index for index, color in enumerate(colors)}
    return Declared(classes, str(path), colors=meaning)


def _color(path: Path, text: str) -> Color:
    match = re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", text)
    if match is None or any(int(part) > 255 for part in match.groups()):
        raise DatasetError(f"{path}: {text[:40]!r} is no colour red,green,blue")
    red, green, blue = map(int, match.groups())
    return red, green, blue


LAYOUT = Layout(
    "voc", "JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/*.txt", matches, read
)
