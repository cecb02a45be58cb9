"""COCO: a JSON file with polygons or run lengths of objects, for each split. Needs pycocotools."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from ..._json import read_json
from ..._messages import one_line, reason
from ...classes import ClassSet, bright_colors, voc_colors
from ..arrays import ImageError, check_size
from ..classes_file import Declared
from ..label_files import LabelValues
from ..labelling import IGNORE, DatasetError
from .base import Found, Layout, Pair

_PART = '"annotations"'
_FIRST_BYTES = 1 << 16
_VOID_NUMBER = 65535


@dataclasses.dataclass(frozen=True)
class CocoLabels:
    """The labels of one image, drawn from its objects: the smaller ones over the larger ones.

    Attributes:
        origin: the JSON file. image: name of the image in it.
        size: height and width.
        objects: (number of its class, its segmentation, whether it is a crowd, which is void).
    """

    origin: str
    image: str
    size: tuple[int, int]
    objects: Sequence[tuple[int, Any, bool]]

    def __str__(self) -> str:
        return f"{self.origin}: {self.image}"

    def values(self) -> LabelValues:
        check_size(Path(str(self)), *self.size)
        masks = []
        for number, segmentation, crowd in self.objects:
            try:
                mask = _mask(segmentation, self.size)
            except (TypeError, ValueError, KeyError, OverflowError) as error:
                raise ImageError(f"{self}: a segmentation is damaged ({one_line(error)})") from None
            masks.append((int(mask.sum()), _VOID_NUMBER if crowd else number, mask))
        numbers = numpy.zeros(self.size, dtype=numpy.uint16)
        for _, number, mask in sorted(masks, key=lambda m: -m[0]):
            numbers[mask] = number
        return LabelValues(numbers)


def _mask(segmentation: Any, size: tuple[int, int]) -> numpy.ndarray:
    """bool [H, W]."""
    from pycocotools import mask

    height, width = size
    if isinstance(segmentation, dict):
        counts, of = segmentation["counts"], segmentation["size"]
        if tuple(of) != size:
            raise ValueError(f"size is {of}, the image has {list(size)}")
        if isinstance(counts, str):
            counts = _run_lengths(counts)
        # The library trusts what it is given.
        if not all(type(c) is int and c >= 0 for c in counts) or sum(counts) != height * width:
            raise ValueError("the run lengths do not add up to the image")
        runs = mask.frPyObjects({"counts": counts, "size": list(size)}, height, width)
        return mask.decode(runs).astype(bool)
    rings = []
    for ring in segmentation:
        if len(ring) < 6 or len(ring) % 2 or len(ring) > 1_000_000:
            raise ValueError(
                f"a polygon has {len(ring)} numbers, expected x, y of 3 points or more"
            )
        for x, y in zip(ring[::2], ring[1::2], strict=True):
            if not (math.isfinite(x) and -width <= x <= 2 * width):
                raise ValueError(f"x is {x}, far outside of the image")
            if not (math.isfinite(y) and -height <= y <= 2 * height):
                raise ValueError(f"y is {y}, far outside of the image")
        rings.append([float(value) for value in ring])
    if not rings:
        return numpy.zeros(size, dtype=bool)
    return mask.decode(mask.merge(mask.frPyObjects(rings, height, width))).astype(bool)


def _run_lengths(text: str) -> list[int]:
    """The run lengths in COCO's compressed string: 5 bits a character, differences from the third
    on to the one before the last."""
    counts: list[int] = []
    place = 0
    while place < len(text):
        value = shift = 0
        while True:
            character = ord(text[place]) - 48
            place += 1
            if not 0 <= character < 64 or shift > 60:
                raise ValueError("the compressed run lengths are damaged")
            value |= (character & 31) << shift
            shift += 5
            if not character & 32:
                break
            if place == len(text):
                raise ValueError("the compressed run lengths are truncated")
        if character & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
    return counts


def _annotation_files(root: Path) -> list[Path]:
    if root.is_file():
        candidates = [root] if root.suffix.lower() == ".json" else []
    else:
        patterns = ("annotations/*.json", "*/_annotations.coco.json", "*.json")
        candidates = [path for pattern in patterns for path in sorted(root.glob(pattern))]
    found = [path for path in candidates if _is_annotations(path)]
    instances = [path for path in found if path.name.startswith("instances")]
    return instances or found


def _is_annotations(path: Path) -> bool:
    """Whether a JSON file begins as COCO's do, or is small and holds objects."""
    try:
        with path.open("rb") as file:
            begin = file.read(_FIRST_BYTES).decode("utf-8", "replace")
            if '"images"' not in begin and '"info"' not in begin and _PART not in begin:
                return False
            if path.stat().st_size > _FIRST_BYTES:
                return not path.name.startswith(("captions", "person_keypoints"))
            return _PART in begin and '"images"' in begin
    except OSError:
        return False


def matches(root: Path) -> bool:
    return bool(_annotation_files(root))


def read(root: Path) -> Found:
    paths = _annotation_files(root)
    if not paths:
        raise DatasetError(f"{root}: expected {LAYOUT.form}")
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise DatasetError(
            f"{root}: COCO's layout needs the package pycocotools: "
            "pip install 'fastseg-kernels[coco]'"
        ) from None
    splits: dict[str, list[Pair]] = {}
    categories: dict[int, str] | None = None
    for path in paths:
        content = _content(path)
        names = _categories(path, content)
        if categories is not None and names != categories:
            raise DatasetError(f"{path}: its categories are not those of {paths[0].name}")
        categories = names
        split = _split_name(path) if len(paths) > 1 else _split_name(path, alone=True)
        splits.setdefault(split, []).extend(_pairs(root, path, content, names))
    assert categories is not None
    notes = ("pixels of no object are background, crowds are void",)
    return Found(splits, _declared(paths[0], categories), notes)


def _content(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        text = reason(error)
        raise DatasetError(text if str(path) in text else f"{path}: {text}") from error
    fields = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(f), list) for f in fields):
        raise DatasetError(f"{path}: expected an object with the lists {', '.join(fields)}")
    for field in fields:
        for index, entry in enumerate(content[field]):
            if not isinstance(entry, dict):
                raise DatasetError(f"{path}: {field}[{index}] is no object")
    return content


def _field(path: Path, where: str, entry: dict[str, Any], name: str, kind: type) -> Any:
    value = entry.get(name)
    if type(value) is not kind:
        raise DatasetError(f"{path}: {where}.{name} is {value!r:.60}, expected {kind.__name__}")
    return value


def _categories(path: Path, content: dict[str, Any]) -> dict[int, str]:
    """Names by identifier, in the order of the identifiers."""
    names: dict[int, str] = {}
    for index, entry in enumerate(content["categories"]):
        where = f"categories[{index}]"
        number = _field(path, where, entry, "id", int)
        if number in names:
            raise DatasetError(f"{path}: {where}.id is {number} once more")
        names[number] = _field(path, where, entry, "name", str)
    if not 1 <= len(names) < IGNORE:
        raise DatasetError(f"{path}: {len(names)} categories, expected 1 to {IGNORE - 1}")
    return {number: names[number] for number in sorted(names)}


def _declared(path: Path, categories: dict[int, str]) -> Declared:
    names = ("background", *categories.values())
    count = len(names)
    classes = ClassSet(names, voc_colors(count), bright_colors(count), background=0)
    numbers = {index: index for index in range(count)} | {_VOID_NUMBER: IGNORE}
    return Declared(classes, str(path), numbers, void=frozenset({_VOID_NUMBER}), own=False)


def _split_name(path: Path, alone: bool = False) -> str:
    """ "train" of instances_train2017.json and train/_annotations.coco.json."""
    words = f"{path.parent.name} {path.stem}" if path.stem.startswith("_") else path.stem
    for name in ("train", "val", "test"):
        if name in words.lower():
            return name
    return "" if alone else path.stem


def _pairs(
    root: Path, path: Path, content: dict[str, Any], categories: dict[int, str]
) -> list[Pair]:
    index_of = {number: index + 1 for index, number in enumerate(categories)}
    objects: dict[int, list[tuple[int, Any, bool]]] = {}
    for index, entry in enumerate(content["annotations"]):
        where = f"annotations[{index}]"
        category = _field(path, where, entry, "category_id", int)
        if category not in index_of:
            raise DatasetError(f"{path}: {where}.category_id is {category}, which is no category")
        segmentation = entry.get("segmentation")
        if not isinstance(segmentation, list | dict):
            raise DatasetError(f"{path}: {where}.segmentation is missing")
        image = _field(path, where, entry, "image_id", int)
        objects.setdefault(image, []).append(
            (index_of[category], segmentation, bool(entry.get("iscrowd", 0)))
        )
    folders = _image_folders(root, path)
    pairs = []
    for index, entry in enumerate(content["images"]):
        where = f"images[{index}]"
        name = _field(path, where, entry, "file_name", str)
        height, width = (_field(path, where, entry, side, int) for side in ("height", "width"))
        if height < 1 or width < 1:
            raise DatasetError(f"{path}: {where} has {width}x{height} pixels")
        image = next((f / name for f in folders if (f / name).is_file()), None)
        if image is None:
            raise DatasetError(
                f"{path}: {where}: {name} is in none of {', '.join(map(str, folders))}"
            )
        number = _field(path, where, entry, "id", int)
        labels = CocoLabels(str(path), name, (height, width), objects.get(number, ()))
        pairs.append(Pair(name, image, labels))
    return sorted(pairs, key=lambda pair: pair.name)


def _image_folders(root: Path, path: Path) -> list[Path]:
    """Where the images of an annotation file may lie, the most likely folder first."""
    base = root if root.is_dir() else root.parent
    base = base.parent if base.name == "annotations" else base
    ending = path.stem.rpartition("_")[2]
    split = _split_name(path)
    names = dict.fromkeys((ending, split))
    below = [base / "images", base]
    folders = [folder / name for folder in below for name in names if name]
    folders = [path.parent, *folders, *below]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


LAYOUT = Layout(
    "coco",
    "annotations/instances_train2017.json and train2017/, or train/_annotations.coco.json",
    matches,
    read,
)
