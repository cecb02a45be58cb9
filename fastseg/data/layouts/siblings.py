"""A folder of images for each split, and beside it one of labels: train/ and train_masks/."""

from __future__ import annotations

from pathlib import Path

from ..labelling import DatasetError
from .base import Found, Layout
from .files import folders_in, pair_files

_ENDS = ("_labels", "_masks", "_label", "_mask", "_annotations", "_gt", "annot")


def sibling_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and labels of each split."""
    present = {folder.name: folder for folder in folders_in(root)}
    return {
        name: (folder, present[name + end])
        for name, folder in present.items()
        for end in _ENDS
        if name + end in present
    }


def matches(root: Path) -> bool:
    return root.is_dir() and bool(sibling_folders(root))


def read(root: Path) -> Found:
    found = sibling_folders(root)
    if not found:
        raise DatasetError(f"{root}: expected {LAYOUT.form}")
    return Found({name: pair_files(*folders) for name, folders in found.items()})


LAYOUT = Layout(
    "siblings",
    "folders train/ and train_masks/ (or train_labels/), and the same of other splits",
    matches,
    read,
)
