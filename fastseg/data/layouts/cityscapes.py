"""Cityscapes: leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY; 34 labels for 19 classes."""

from __future__ import annotations

from pathlib import Path

from ...classes import ClassSet, bright_colors
from ..classes_file import Declared
from ..labelling import IGNORE, DatasetError
from .base import Found, Layout, Pair
from .files import by_name, folders_in

# Number in the files *_labelIds.png, name, colour in the files *_color.png.
_CLASSES = (
    (7, "road", 0x804080),
    (8, "sidewalk", 0xF423E8),
    (11, "building", 0x464646),
    (12, "wall", 0x66669C),
    (13, "fence", 0xBE9999),
    (17, "pole", 0x999999),
    (19, "traffic light", 0xFAAA1E),
    (20, "traffic sign", 0xDCDC00),
    (21, "vegetation", 0x6B8E23),
    (22, "terrain", 0x98FB98),
    (23, "sky", 0x4682B4),
    (24, "person", 0xDC143C),
    (25, "rider", 0xFF0000),
    (26, "car", 0x00008E),
    (27, "truck", 0x000046),
    (28, "bus", 0x003C64),
    (31, "train", 0x005064),
    (32, "motorcycle", 0x0000E6),
    (33, "bicycle", 0x770B20),
)
# Colours of the labels that count nowhere: static, dynamic, ground, parking, rail track, guard
# rail, bridge, tunnel, caravan, trailer, and black for all others.
_VOID_COLORS = (
    0x000000, 0x6F4A00, 0x510051, 0xFAAAA0, 0xE6968C, 0xB4A5B4, 0x966464, 0x96785A, 0x00005A,
    0x00006E,
)  # fmt: skip
_COLORS = {color: index for index, (_, _, color) in enumerate(_CLASSES)}
CITYSCAPES = ClassSet(
    tuple(name for _, name, _ in _CLASSES),
    tuple((color >> 16, color >> 8 & 255, color & 255) for _, _, color in _CLASSES),
    bright_colors(len(_CLASSES)),
)
PALETTE = Declared(
    CITYSCAPES,
    "Cityscapes",
    colors=dict.fromkeys(_VOID_COLORS, IGNORE) | _COLORS,
    void=frozenset({IGNORE}),
    own=False,
)
_LABEL_IDS = Declared(
    CITYSCAPES,
    "Cityscapes' 19 classes of 34 labels",
    numbers=dict.fromkeys(range(-1, 34), IGNORE)
    | {number: index for index, (number, _, _) in enumerate(_CLASSES)},
    void=frozenset({IGNORE}),
    own=False,
)
_IMAGE_END = "_leftImg8bit"
# Ends of the names of label files; where there are several, the first is read.
_LABEL_ENDS = {"_labelIds": _LABEL_IDS, "_labelTrainIds": PALETTE, "_color": PALETTE}


def _labels_folder(root: Path) -> Path | None:
    return next((root / n for n in ("gtFine", "gtCoarse") if (root / n).is_dir()), None)


def matches(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir() and _labels_folder(root) is not None


def read(root: Path) -> Found:
    folder = _labels_folder(root)
    if folder is None or not matches(root):
        raise DatasetError(f"{root}: expected {LAYOUT.form}")
    files = by_name(folder, (".png",))
    kind = folder.name
    end = next((e for e in _LABEL_ENDS if any(n.endswith(f"_{kind}{e}") for n in files)), None)
    if end is None:
        raise DatasetError(f"{folder}: no files *_{kind}_labelIds.png in its folders")
    splits: dict[str, list[Pair]] = {}
    without = 0
    for split in folders_in(root / "leftImg8bit"):
        for name, image in by_name(split).items():
            shared = name.removesuffix(_IMAGE_END)
            label = files.get(f"{split.name}/{shared}_{kind}{end}")
            if label is None:
                without += 1
                continue
            splits.setdefault(split.name, []).append(Pair(shared, image, label))
    if not splits:
        raise DatasetError(f"{root / 'leftImg8bit'}: no image has a label file in {folder}")
    notes = [f"labels from {kind} *{end}.png"]
    if without:
        notes.append(f"{without} images have no labels and are left out")
    return Found(splits, _LABEL_ENDS[end], tuple(notes))


LAYOUT = Layout("cityscapes", "leftImg8bit/ and gtFine/, each SPLIT/CITY/", matches, read)
