"""What the numbers in the label files of a data set mean."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._messages import reason
from ..classes import CAMVID, VOC, ClassSet, Color, bright_colors, voc_colors

# Read in this order; the second is what CamVid's compact copy has.
FILE_NAMES = ("classes.json", "meta.json")
IGNORE = 255


class DatasetError(Exception):
    """A data set that cannot be used as it is; the message names the file and says why."""


@dataclasses.dataclass(frozen=True)
class Labelling:
    """The classes of a data set, and the label values that mean none of them.

    Attributes:
        classes: names and colours; the label value i is class i.
        ignored: label values of pixels that count nowhere; 255 always is one.
        origin: where this is known from, for people to read.
    """

    classes: ClassSet
    ignored: frozenset[int]
    origin: str


def read_classes_file(root: Path, name: str | None = None) -> Labelling | None:
    """The labelling that a JSON file in the data set's folder describes; None without a file.

    The file holds {"classes": ["road", ...], "ignore_label": 11, "palette_rgb": [[r, g, b], ...]};
    all but the names may be missing, and "ignore_label" may be a list.

    Raises:
        DatasetError: the file is not of that form.
    """
    for file in [name] if name else FILE_NAMES:
        path = root / file
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path}: {reason(error)}") from error
        if isinstance(content, Mapping) and "classes" in content:
            return _labelling(path, content)
        if file == FILE_NAMES[0] or name:
            raise DatasetError(f'{path}: expected {{"classes": ["first name", ...], ...}}')
    return None


def _labelling(path: Path, content: Mapping[str, Any]) -> Labelling:
    names = content["classes"]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DatasetError(f"{path}: classes must be a list of names")
    if len(names) > IGNORE:
        raise DatasetError(f"{path}: {len(names)} classes, allowed are at most {IGNORE}")
    ignored = content.get("ignore_label", [])
    ignored = ignored if isinstance(ignored, list) else [ignored]
    if not all(isinstance(value, int) and 0 <= value <= IGNORE for value in ignored):
        raise DatasetError(f"{path}: ignore_label is {ignored}, expected 0 to {IGNORE}")
    palette = content.get("palette_rgb")
    try:
        colors = None if palette is None else tuple((int(r), int(g), int(b)) for r, g, b in palette)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{path}: palette_rgb must be a list of [red, green, blue]") from error
    if colors is not None and len(colors) < len(names):
        raise DatasetError(f"{path}: palette_rgb has {len(colors)} colours, classes {len(names)}")
    classes = class_set(tuple(names), colors)
    return Labelling(classes, frozenset({IGNORE, *ignored}), str(path))


def class_set(names: tuple[str, ...], colors: tuple[Color, ...] | None = None) -> ClassSet:
    """Classes by name: a known set if there is one of these names, else with generated colours."""
    for known in (VOC, CAMVID):
        if known.names == names:
            return known
    count = len(names)
    return ClassSet(names, colors[:count] if colors else voc_colors(count), bright_colors(count))
