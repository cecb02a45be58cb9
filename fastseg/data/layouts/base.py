"""The base of layouts, and the files found in one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from ..classes_file import Declared
from ..label_files import LabelSource


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image and its labels.

    Attributes:
        name: of the pair, the same in messages, tables and results.
        image: file of the image.
        label: file of the labels, or a source that draws them.
    """

    name: str
    image: Path
    label: Path | LabelSource


@dataclasses.dataclass(frozen=True)
class Found:
    """The files of a data set.

    Attributes:
        splits: pairs of each split, sorted by name; "" is a data set without splits.
        declared: the classes, where the layout says them.
        notes: what people should know, such as how many images have no labels.
    """

    splits: dict[str, list[Pair]]
    declared: Declared | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way in which data sets lie on disk.

    Attributes:
        name: for --layout.
        form: the folders and files, in a few words.
        matches: whether a folder (or file) looks like it; quick, and reads no image.
        read: finds its files; raises DatasetError where something is missing.
    """

    name: str
    form: str
    matches: Callable[[Path], bool]
    read: Callable[[Path], Found]
