"""Reads classes.json, a data set's own list of classes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._json import checked, read_json
from .._messages import reason
from .._schema import PLAIN, Array, Integer, Record, Text, either, nullable
from ..classes import CAMVID, VOC, ClassSet, Color, bright_colors, voc_colors
from .label_files import color_code
from .labelling import IGNORE, DatasetError

# Read in this order; the second is what CamVid's compact copy has.
FILE_NAMES = ("classes.json", "meta.json")
_LABEL = Integer(-(2**63), 2**63 - 1)
_COLOR = Array(Integer(0, 255), 3, 3)
_FIELDS = Record(
    {"classes": Array(Text(), 1, IGNORE)},
    {
        "ignore_label": nullable(either(_LABEL, Array(_LABEL))),
        "palette_rgb": nullable(Array(_COLOR, 1)),
    },
    PLAIN,
)
# Other programs' names of these fields: refused, so that they are not overlooked.
_MEANT = {
    "ignore_index": "ignore_label",
    "ignore": "ignore_label",
    "void": "ignore_label",
    "palette": "palette_rgb",
    "colors": "palette_rgb",
}


@dataclasses.dataclass(frozen=True)
class Declared:
    """Classes that are known before a label file is looked at.

    Attributes:
        classes: names and colours.
        origin: who says so, for people to read.
        numbers: class, or IGNORE, of each number; by default the number i is class i.
        colors: class, or IGNORE, of each colour 0xRRGGBB that label files may have.
        void: numbers that are void; None where nothing is said, and then 255 is.
        own: whether the data set says so, rather than what it looks like.
    """

    classes: ClassSet
    origin: str
    numbers: Mapping[int, int] | None = None
    colors: Mapping[int, int] = dataclasses.field(default_factory=dict)
    void: frozenset[int] | None = None
    own: bool = True

    def numbered(self) -> dict[int, int]:
        """`numbers`, or what they are by default."""
        if self.numbers is not None:
            return dict(self.numbers)
        return {index: index for index in range(len(self.classes))}


def model_classes(classes: ClassSet, origin: str) -> Declared:
    """The classes of a model, for data sets that do not name theirs.

    Args:
        classes: names and colours.
        origin: where they come from, for people to read.

    Returns:
        The declaration: label i is class i.
    """
    return Declared(classes, origin)


def read_classes_file(root: Path) -> Declared | None:
    """Reads the JSON file in the data set's folder; None without one.

    The file holds {"classes": ["road", ...], "ignore_label": 11, "palette_rgb": [[r, g, b], ...]};
    all but the names may be missing, and "ignore_label" may be a list. The palette may have colours
    beyond the classes: those are void.

    Raises:
        DatasetError: the file is not of that form.
    """
    for name in FILE_NAMES:
        path = root / name
        if not path.is_file():
            continue
        try:
            content = read_json(path, _FIELDS if name == FILE_NAMES[0] else PLAIN)
            if isinstance(content, Mapping) and "classes" in content:
                return _declared(path, checked(str(path), content, _FIELDS))
        except OSError as error:
            raise DatasetError(f"{path}: {reason(error)}") from error
        except ValueError as error:
            raise DatasetError(reason(error)) from error
    return None


def _declared(path: Path, content: Mapping[str, Any]) -> Declared:
    names = tuple(content["classes"])
    for name in names:
        if names.count(name) > 1:
            raise DatasetError(f"{path}: classes has {name!r} twice")
    for field in set(content) - set(_FIELDS.optional) - set(_FIELDS.required):
        near = difflib.get_close_matches(field, _FIELDS.optional, 1, 0.9)
        if meant := _MEANT.get(field, near[0] if near else None):
            raise DatasetError(f"{path}: {field} is not known, is {meant} meant?")
    ignored = content.get("ignore_label")
    if ignored is not None:
        ignored = frozenset(ignored if isinstance(ignored, list) else [ignored])
    palette = content.get("palette_rgb")
    colors: tuple[Color, ...] = tuple((r, g, b) for r, g, b in palette or ())
    if palette is not None and len(colors) < len(names):
        raise DatasetError(f"{path}: palette_rgb has {len(colors)} colours, classes {len(names)}")
    for index, color in enumerate(colors):
        if colors.index(color) != index and index < len(names):
            raise DatasetError(f"{path}: palette_rgb has the colour {list(color)} twice")
    meaning = {
        color_code(color): index if index < len(names) else IGNORE
        for index, color in reversed(list(enumerate(colors)))
    }
    return Declared(
        class_set(names, colors or None), str(path), colors=meaning, void=ignored, own=True
    )


def class_set(names: tuple[str, ...], colors: tuple[Color, ...] | None = None) -> ClassSet:
    """Classes by name: a known set if there is one of these names, else with generated colours."""
    for known in (VOC, CAMVID):
        if known.names == names:
            return known
    count = len(names)
    colors = colors[:count] if colors else voc_colors(count)
    background = 0 if count > 1 and names[0].lower() == "background" else None
    return ClassSet(names, colors, bright_colors(count), background)
