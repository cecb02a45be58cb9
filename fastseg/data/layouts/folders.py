"""images/ and labels/ with the same names, or a folder for each split that has both."""

from __future__ import annotations

from pathlib import Path

from ..labelling import DatasetError
from .base import Found, Layout, Pair
from .files import first_folder, folders_in, pair_files

_IMAGES = (
    "images", "image", "img", "imgs", "img_dir", "JPEGImages", "photos", "frames", "input",
    "inputs",
)  # fmt: skip
_LABELS = (
    "labels", "label", "masks", "mask", "annotations", "annotation", "ann_dir", "SegmentationClass",
    "segmentation", "segmentations", "groundtruth", "ground_truth", "gt", "targets",
)  # fmt: skip
_TRAINING = ("train", "training")


def _folders(root: Path) -> tuple[Path, Path] | None:
    images, labels = first_folder(root, _IMAGES), first_folder(root, _LABELS)
    return (images, labels) if images is not None and labels is not None else None


def _split_folders(root: Path) -> list[Path]:
    """Folders of splits, each with images and labels in it; one is called as the training split."""
    found = [folder for folder in folders_in(root) if _folders(folder) is not None]
    return found if any(folder.name.lower() in _TRAINING for folder in found) else []


def matches(root: Path) -> bool:
    return root.is_dir() and (_folders(root) is not None or bool(_split_folders(root)))


def read(root: Path) -> Found:
    both = _folders(root)
    if both is None:
        splits: dict[str, list[Pair]] = {}
        for folder in _split_folders(root):
            inner = _folders(folder)
            assert inner is not None
            splits[folder.name] = pair_files(*inner)
        if not splits:
            raise DatasetError(f"{root}: expected {LAYOUT.form}")
        return Found(splits)
    images, labels = both
    names = [folder.name for folder in folders_in(images)]
    if not names:
        return Found({"": pair_files(images, labels)})
    for name in names:
        if not (labels / name).is_dir():
            raise DatasetError(f"{labels / name}: no such folder, but there is {images / name}")
    return Found({name: pair_files(images / name, labels / name) for name in names})


LAYOUT = Layout(
    "folders",
    "folders images/ and labels/ (or masks/), each with the splits train and val or with the files",
    matches,
    read,
)
