"""Layouts of data sets on disk, one file each. `--layout` takes their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ..classes_file import Declared, read_classes_file
from ..labelling import DatasetError
from . import ade20k, camvid, cityscapes, coco, folders, pairs, siblings, table, voc
from .base import Layout, Pair

# The first that matches is taken: those that say most about their labels come first.
LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        voc.LAYOUT,
        cityscapes.LAYOUT,
        ade20k.LAYOUT,
        camvid.COLORS,
        camvid.SEGNET,
        coco.LAYOUT,
        folders.LAYOUT,
        siblings.LAYOUT,
        table.LAYOUT,
        pairs.LAYOUT,
    )
}
_DEEPEST = 3  # levels of folders that hold one folder each, as archives have them
_ALIASES = {
    "train": ("training",),
    "val": ("valid", "validation", "dev"),
    "test": ("testing", "eval"),
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        root: the folder (or file) that has the layout.
        layout: its name.
        splits: pairs of each split; "" is a data set without splits.
        declared: the classes, where classes.json or the layout says them.
        notes: what people should know about the files.
    """

    root: Path
    layout: str
    splits: dict[str, list[Pair]]
    declared: Declared | None
    notes: tuple[str, ...]

    def split(self, name: str) -> str | None:
        """Finds a split by its name, a synonym, or as the only one there is."""
        if set(self.splits) == {""}:
            return ""
        words = (name, *_ALIASES.get(name, ()))
        return next((word for word in words if word in self.splits), None)

    def line(self, used: Iterable[str]) -> str:
        """One line: the layout, how many images these splits have, and what else is to be known."""
        counts = ", ".join(f"{len(self.splits[name])} {name or 'images'}" for name in used)
        return "; ".join((f"layout {self.layout}: {counts}", *self.notes))


def open_data_set(root: Path, layout: str | None = None) -> DataSet:
    """Finds the images and labels of a data set.

    Args:
        root: its folder, or a folder that holds nothing but it; or a csv or COCO file.
        layout: a key of LAYOUTS; by default the first that matches.

    Returns:
        The data set: its pairs by split, and its classes if it declares them.

    Raises:
        DatasetError: no such folder or layout, or files that do not fit each other.
    """
    if layout is not None and layout not in LAYOUTS:
        raise DatasetError(f"--layout is {layout!r}, allowed are {', '.join(LAYOUTS)}")
    if not root.exists():
        raise DatasetError(f"{root}: no such folder")
    candidates = [LAYOUTS[layout]] if layout is not None else list(LAYOUTS.values())
    try:
        folder = root
        for _ in range(_DEEPEST + 1):
            for candidate in candidates:
                if candidate.matches(folder):
                    return _opened(folder, candidate)
            inner = [f for f in sorted(folder.iterdir()) if f.is_dir()] if folder.is_dir() else []
            inner = [f for f in inner if not f.name.startswith((".", "__"))]
            if len(inner) != 1:
                break
            folder = inner[0]
        fitting = [f for f in inner if any(c.matches(f) for c in candidates)]
    except OSError as error:
        raise DatasetError(f"{root}: {error.strerror or error}") from error
    if fitting:
        names = ", ".join(folder.name for folder in fitting[:8])
        raise DatasetError(f"{root}: holds several data sets, give one of them: {names}")
    forms = "; ".join(f"{c.name}: {c.form}" for c in candidates)
    raise DatasetError(f"{root}: is in no layout that is known, expected folders images/ and "
                       f"labels/, or one of these ({forms})"
                       if layout is None else f"{root}: is not in the layout {forms}")  # fmt: skip


def _opened(root: Path, layout: Layout) -> DataSet:
    declared = read_classes_file(root) if root.is_dir() else None
    if declared is not None and layout is ade20k.LAYOUT:
        layout = folders.LAYOUT  # labels of its own, in folders of these names
    found = layout.read(root)
    # With classes of its own, a data set has its own numbers, but perhaps the layout's void.
    return DataSet(root, layout.name, found.splits, declared or found.declared, found.notes)
