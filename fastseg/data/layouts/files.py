"""Finding images and label files, and bringing them together by name."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from ..._files import read_lines
from ..._messages import reason
from ..images import SUFFIXES
from ..labelling import DatasetError
from .base import Pair

_LIST_BYTES = 64 << 20

LABEL_SUFFIXES = (*SUFFIXES, ".npy", ".tga")
# What names of label files, and of images, have at their end beside the name that both share.
_LABEL_END = re.compile(
    r"[_\-. ]?(?:masks?|labels?|labelids|seg|segmentation|gt|groundtruth|annotation|annotations)$"
    r"|[_\-]L$|_(?:lab|y)$",
    re.IGNORECASE,
)
_IMAGE_END = re.compile(r"[_\-. ](?:image|img|sat|rgb|photo|input|x)$", re.IGNORECASE)


def folders_in(root: Path) -> list[Path]:
    return sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


def files_in(folder: Path, suffixes: Iterable[str] = LABEL_SUFFIXES) -> list[Path]:
    """The files in a folder itself that have one of these suffixes."""
    allowed = tuple(suffixes)
    return sorted(
        f
        for f in folder.iterdir()
        if f.suffix.lower() in allowed and not f.name.startswith(".") and f.is_file()
    )


def by_name(folder: Path, suffixes: Iterable[str] = LABEL_SUFFIXES) -> dict[str, Path]:
    """The files below a folder by their relative names without suffix; hidden ones left out."""
    allowed = tuple(suffixes)
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if (
            path.suffix.lower() not in allowed
            or any(part.startswith(".") for part in relative.parts)
            or not path.is_file()
        ):
            continue
        name = relative.with_suffix("").as_posix()
        if name in files:
            raise DatasetError(f"{path}: has the same name as {files[name].name}")
        files[name] = path
    return files


def label_name(name: str) -> str | None:
    """The name that a label file shares with its image; None where it is not named like one."""
    head, slash, tail = name.rpartition("/")
    shared = _LABEL_END.sub("", tail)
    return f"{head}{slash}{shared}" if shared and shared != tail else None


def image_name(name: str) -> str:
    """The name that an image shares with its label file."""
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}{_IMAGE_END.sub('', tail) or tail}"


def pair_files(images: Path, labels: Path) -> list[Pair]:
    """The images below one folder with the label files of the same names below another.

    Label files may have the name of the image and _mask, _label and the like.

    Raises:
        DatasetError: no images, or an image without label or the reverse.
    """
    by_image, by_label = by_name(images), by_name(labels)
    if not by_image:
        raise DatasetError(f"{images}: no images in this folder")
    if not set(by_image) & set(by_label):
        by_label = _shared(by_label, lambda name: label_name(name) or name)
        if not set(by_image) & set(by_label):
            by_image = _shared(by_image, image_name)
    for here, there, folder in ((by_image, by_label, labels), (by_label, by_image, images)):
        if missing := sorted(set(here) - set(there)):
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DatasetError(f"{here[missing[0]]}: no file of this name in {folder}{more}")
    return [Pair(name, by_image[name], by_label[name]) for name in sorted(by_image)]


def _shared(files: Mapping[str, Path], shared_name) -> dict[str, Path]:  # type: ignore[no-untyped-def]
    result: dict[str, Path] = {}
    for name, path in files.items():
        shared = shared_name(name)
        if shared in result:
            raise DatasetError(f"{path}: belongs to {shared!r}, as {result[shared].name} does")
        result[shared] = path
    return result


def first_folder(root: Path, names: Iterable[str]) -> Path | None:
    """The first of these folders that is there; upper and lower case are the same."""
    present = {folder.name.lower(): folder for folder in folders_in(root)}
    return next((present[name.lower()] for name in names if name.lower() in present), None)


def listed(path: Path) -> list[str]:
    """The names in a list file, one on each line.

    Raises:
        DatasetError: it cannot be read.
    """
    try:
        lines = read_lines(path, _LIST_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: {reason(error)}") from error
    return [line.strip() for line in lines if line.strip()]


def listed_name(line: str, known: Container[str]) -> str:
    """The name that a line of a list means: "name", "name.jpg", or "/folder/name.jpg /labels/..".

    Args:
        known: names of files, without suffix. One with spaces or dots is found there.
    """
    for text in (line, line.split()[0]):
        path = Path(text)
        for name in (text, path.with_suffix("").as_posix(), path.name, path.stem):
            if name in known:
                return name
    return Path(line.split()[0]).stem
