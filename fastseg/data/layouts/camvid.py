"""CamVid: colour labels NAME_L.png, or SegNet's copy with train/ and trainannot/."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...classes import CAMVID
from ..classes_file import Declared
from ..label_files import color_code
from ..labelling import IGNORE, DatasetError
from ..survey import survey
from .base import Found, Layout, Pair
from .files import by_name, first_folder, listed, listed_name, pair_files
from .siblings import sibling_folders

# The 32 colours, grouped into the 11 classes that results are reported for.
_GROUPS = {
    "Sky": (0x808080,),
    "Building": (0x800000, 0xC00080, 0x008040, 0x400040, 0x40C000),
    "Pole": (0xC0C080, 0x000040),
    "Road": (0x804080, 0x8000C0, 0xC00040),
    "Pavement": (0x0000C0, 0x40C080, 0x8080C0),
    "Tree": (0x808000, 0xC0C000),
    "SignSymbol": (0xC08080, 0x808040, 0x004040),
    "Fence": (0x404080,),
    "Car": (0x400080, 0x4080C0, 0xC080C0, 0xC04080, 0x804040),
    "Pedestrian": (0x404000, 0xC08040, 0x4000C0, 0x408040),
    "Bicyclist": (0x0080C0, 0xC000C0),
}
_VOID_COLOR, _VOID_NUMBER = 0x000000, 11
# The four films that CamVid is of begin the names of its files.
_SEQUENCES = re.compile(r"0001TP|0006R0|0016E5|Seq05VD")
_FIRST_FILES = 16
PALETTE = Declared(
    CAMVID,
    "CamVid's 11 classes of 32 colours",
    colors={color_code(color): index for index, color in enumerate(CAMVID.colors)}
    | {color: CAMVID.names.index(name) for name, colors in _GROUPS.items() for color in colors}
    | {_VOID_COLOR: IGNORE},
    void=frozenset({_VOID_NUMBER, IGNORE}),
    own=False,
)
_IMAGE_FOLDERS = ("701_StillsRaw_full", "images", "raw")
_LABEL_FOLDERS = ("LabeledApproved_full", "labels", "LabeledApproved")


def _has_color_labels(folder: Path | None) -> bool:
    if folder is None:
        return False
    return any(path.stem.endswith("_L") for path in folder.glob("*.png"))


def _color_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    """The folders of images and of labels NAME_L.png, of each split."""
    siblings = sibling_folders(root)
    found = {name: both for name, both in siblings.items() if _has_color_labels(both[1])}
    if found:
        return found
    images, labels = first_folder(root, _IMAGE_FOLDERS), first_folder(root, _LABEL_FOLDERS)
    if images is None or labels is None:
        return {}
    inner = {f.name: (images / f.name, f) for f in sorted(labels.iterdir()) if f.is_dir()}
    inner = {name: both for name, both in inner.items() if _has_color_labels(both[1])}
    return inner or ({"": (images, labels)} if _has_color_labels(labels) else {})


def matches_colors(root: Path) -> bool:
    return root.is_dir() and bool(_color_folders(root))


def read_colors(root: Path) -> Found:
    folders = _color_folders(root)
    if not folders:
        raise DatasetError(f"{root}: expected {COLORS.form}")
    if "" not in folders:
        return Found({name: pair_files(*both) for name, both in folders.items()}, PALETTE)
    images, labels = (by_name(folder) for folder in folders[""])
    pairs = [
        Pair(name, images[name], labels[f"{name}_L"])
        for name in sorted(images)
        if f"{name}_L" in labels
    ]
    if not pairs:
        raise DatasetError(f"{folders[''][1]}: no file NAME_L.png belongs to an image")
    notes = []
    if len(pairs) < len(images):
        notes.append(f"{len(images) - len(pairs)} images have no labels and are left out")
    return Found(_by_lists(root, pairs), PALETTE, tuple(notes))


def _by_lists(root: Path, pairs: list[Pair]) -> dict[str, list[Pair]]:
    """The splits that train.txt, val.txt and test.txt name; one without them."""
    splits = {}
    for path in (root / f"{name}.txt" for name in ("train", "val", "test")):
        if path.is_file():
            known = {name + end for name in {pair.name for pair in pairs} for end in ("", "_L")}
            names = {listed_name(line, known).removesuffix("_L") for line in listed(path)}
            splits[path.stem] = [pair for pair in pairs if pair.name in names]
    return {name: found for name, found in splits.items() if found} or {"": pairs}


def _segnet_folders(root: Path) -> dict[str, tuple[Path, Path]]:
    return {
        name: both for name, both in sibling_folders(root).items() if both[1].name == f"{name}annot"
    }


def matches_segnet(root: Path) -> bool:
    return root.is_dir() and bool(_segnet_folders(root))


def read_segnet(root: Path) -> Found:
    folders = _segnet_folders(root)
    if not folders:
        raise DatasetError(f"{root}: expected {SEGNET.form}")
    splits = {name: pair_files(*both) for name, both in folders.items()}
    declared = Declared(
        CAMVID, "CamVid's 11 classes", void=frozenset({_VOID_NUMBER, IGNORE}), own=False
    )
    return Found(splits, declared if _is_camvid(splits) else None)


def _is_camvid(splits: Mapping[str, list[Pair]]) -> bool:
    """Whether files that lie as SegNet's do are CamVid's: by name, or by labels up to void's."""
    pairs = [pair for found in splits.values() for pair in found]
    if all(_SEQUENCES.match(pair.name) for pair in pairs):
        return True
    seen = set(survey(pair.label for pair in pairs[:_FIRST_FILES]).numbers or ())
    return _VOID_NUMBER in seen and max(seen) in (_VOID_NUMBER, IGNORE)


COLORS = Layout(
    "camvid",
    "train/ and train_labels/ (or 701_StillsRaw_full/ and LabeledApproved_full/) with NAME_L.png",
    matches_colors,
    read_colors,
)
SEGNET = Layout(
    "camvid-segnet", "train/ and trainannot/, and the same of val and test", matches_segnet,
    read_segnet,
)  # fmt: skip
