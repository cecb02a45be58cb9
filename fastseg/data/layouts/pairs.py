"""Images and label files side by side: NAME.jpg and NAME_mask.png."""

from __future__ import annotations

from pathlib import Path

from ..labelling import DatasetError
from .base import Found, Layout, Pair
from .files import files_in, folders_in, image_name, label_name


def _split(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Label files, by the names of their images, and all other files, by their names."""
    labels: dict[str, Path] = {}
    others: dict[str, Path] = {}
    for path in files_in(folder):
        shared = label_name(path.stem)
        table, name = (others, path.stem) if shared is None else (labels, shared)
        if name in table:
            raise DatasetError(f"{path}: has the same name as {table[name].name}")
        table[name] = path
    return labels, others


def _is_paired(folder: Path) -> bool:
    names = {path.stem for path in files_in(folder)}
    shared = {label_name(name) for name in names} - {None}
    return bool(shared & (names | {image_name(name) for name in names}))


def matches(root: Path) -> bool:
    return root.is_dir() and (_is_paired(root) or any(_is_paired(f) for f in folders_in(root)))


def _pairs(folder: Path) -> tuple[list[Pair], int]:
    """The pairs in a folder, and how many images there have no labels."""
    labels, others = _split(folder)
    images = {image_name(name) if name not in labels else name: p for name, p in others.items()}
    for name, path in labels.items():
        if name not in images:
            raise DatasetError(f"{path}: no image called {name} in {folder}")
    pairs = [Pair(name, images[name], labels[name]) for name in sorted(labels)]
    return pairs, len(images) - len(pairs)


def read(root: Path) -> Found:
    folders = {"": root} if _is_paired(root) else {f.name: f for f in folders_in(root)}
    splits: dict[str, list[Pair]] = {}
    without = 0
    for name, folder in folders.items():
        if _is_paired(folder):
            splits[name], more = _pairs(folder)
            without += more
    if not splits:
        raise DatasetError(f"{root}: expected {LAYOUT.form}")
    notes = (f"{without} images have no labels and are left out",) if without else ()
    return Found(splits, notes=notes)


LAYOUT = Layout(
    "pairs",
    "files NAME.jpg and NAME_mask.png (or _label, _seg, _gt) side by side, perhaps in train/, val/",
    matches,
    read,
)
