"""Finding photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from ..data.images import SUFFIXES, ImageError, read_image

__all__ = ["ImageError", "Source", "find_images", "read_image"]


@dataclasses.dataclass(frozen=True)
class Source:
    """An image to read, and the name of its results: a relative path without suffix."""

    path: Path
    name: Path


def find_images(paths: Iterable[Path], without: Path) -> tuple[list[Source], list[str]]:
    """The images that files and folders name, each once, in the order given.

    Args:
        paths: files, and folders that are searched with their subfolders (hidden ones left out).
        without: a folder to leave out: results of an earlier run are no images.

    Returns:
        The images, whose names keep the subfolders and differ from each other; and one message per
        path that cannot be used.
    """
    sources: list[Source] = []
    problems: list[str] = []
    seen: set[Path] = set()
    names: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found = _images_below(path, without)
            if not found:
                problems.append(f"{path}: no images in this folder")
        else:
            found = [path]
        for file in found:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("")
            name = _unused(name, names)
            names.add(name)
            sources.append(Source(file, name))
    return sources, problems


def _images_below(folder: Path, without: Path) -> list[Path]:
    excluded = without.resolve()
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and excluded not in path.resolve().parents
    )


def _unused(name: Path, names: set[Path]) -> Path:
    candidate, number = name, 2
    while candidate in names:
        candidate, number = name.with_name(f"{name.name}_{number}"), number + 1
    return candidate
