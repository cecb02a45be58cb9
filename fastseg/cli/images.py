"""Finding photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ..data.arrays import check_size
from ..data.images import SUFFIXES, ImageError, image_bands, read_image, viewable
from .outputs import folded

__all__ = [
    "RESULTS",
    "ImageError",
    "Source",
    "check_size",
    "find_images",
    "image_bands",
    "read_image",
    "viewable",
]

# What `segment` and `crf` append to the name of an image.
RESULTS = ("_overlay", "_labels", "_before_after")


@dataclasses.dataclass(frozen=True)
class Source:
    """An image to read.

    Attributes:
        path: of its file.
        name: of its results: a relative path without suffix, another one for each image.
        relative: the path without suffix below the folder that was searched.
    """

    path: Path
    name: Path
    relative: Path


def find_images(
    paths: Iterable[Path], without: Path, bands: int = 3
) -> tuple[list[Source], list[str]]:
    """Lists the images in files and folders, each once, in the given order.

    Args:
        paths: files, and folders that are searched with their subfolders (hidden ones left out).
        without: a folder whose results of an earlier run are no images: all that a folder inside a
            searched one holds; where it is searched itself, the files beside an image that are
            named as its results.
        bands: of the model. Beside photographs .npy files are something else, probabilities
            perhaps.

    Returns:
        The images, whose names keep the subfolders and differ from each other, also where upper and
        lower case are the same; and one message per path that cannot be used.
    """
    sources: list[Source] = []
    problems: list[str] = []
    seen: set[Path] = set()
    names: set[str] = set()
    for path in paths:
        folder = path.is_dir()
        found = _images_below(path, without, bands) if folder else [path]
        if not found:
            problems.append(f"{path}: no images in this folder")
        for file in found:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            name = (file.relative_to(path) if folder else Path(file.name)).with_suffix("")
            sources.append(Source(file, _unused(name, names), name))
    return sources, problems


def _images_below(folder: Path, without: Path, bands: int) -> list[Path]:
    excluded = without.resolve()
    inside = folder.resolve() in excluded.parents
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (inside and excluded in path.resolve().parents)
    )
    photographs = [path for path in found if path.suffix.lower() != ".npy"]
    if bands == 3 and photographs:
        found = photographs
    stems = {path.with_suffix("") for path in found}
    return [path for path in found if not _is_result(path, stems, excluded)]


def _is_result(path: Path, stems: set[Path], out_dir: Path) -> bool:
    if out_dir not in path.resolve().parents:
        return False
    return path.suffix == ".png" and any(
        path.stem.endswith(end) and path.with_name(path.stem.removesuffix(end)) in stems
        for end in RESULTS
    )


def _unused(name: Path, names: set[str]) -> Path:
    """Claims a name, with a number appended if it is taken."""
    candidate, number = name, 2
    while folded(candidate) in names:
        candidate, number = name.with_name(f"{name.name}_{number}"), number + 1
    names.add(folded(candidate))
    return candidate
