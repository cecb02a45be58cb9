"""Reading data sets, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..data import (
    DataSet,
    Declared,
    Labelling,
    LabelOptions,
    Pair,
    Split,
    image_bands,
    label_options,
    labelling_of,
)
from ..data.images import ImageError
from ..data.labelling import DatasetError
from ..engine.processes import Processes
from .console import progress_bar, warn


def options_of(
    void: list[str] | None,
    label_map: list[str] | None,
    drawn: str,
    trusted: bool,
    ignore: list[int] | None = None,
) -> LabelOptions:
    """Parses the options about labels. Raises DatasetError for words that cannot be read."""
    if ignore:
        warn("--ignore is called --void now")
    words = [*(void or []), *(str(value) for value in ignore or [])]
    return label_options(words, label_map or [], drawn, trusted)


def split_of(data: DataSet, name: str) -> str:
    """Finds a split by name. Raises DatasetError if there is none."""
    found = data.split(name)
    if found is None:
        raise DatasetError(f"{data.root}: has no split {name!r}, but {', '.join(data.splits)}")
    return found


def labelling_for(
    data: DataSet,
    used: Iterable[str],
    options: LabelOptions,
    processes: Processes,
    model: Declared | None = None,
) -> tuple[Labelling, list[str]]:
    """Finds out what the labels of these splits mean; also returns lines to print about it."""
    pairs = [pair for name in used for pair in data.splits[name]]
    return labelling_of(data, pairs, options, model=model, threads=_threads(processes))


def bands_of(pairs: list[Pair]) -> int:
    """The channels of the images of a data set. Raises DatasetError if the first is damaged."""
    try:
        return image_bands(pairs[0].image)
    except ImageError as error:
        raise DatasetError(str(error)) from error


def read_split(
    name: str,
    pairs: list[Pair],
    labelling: Labelling,
    processes: Processes,
    cache_bytes: int,
    bands: int = 3,
) -> Split:
    """Reads and checks all files of a split. Raises DatasetError at files that are wrong."""
    shown = processes.first
    with progress_bar(f"reading {name or 'the images'}", len(pairs), shown) as progress:
        return Split(
            name,
            pairs,
            labelling,
            bands=bands,
            cache_bytes=cache_bytes,
            threads=_threads(processes),
            progress=progress,
        )


def cache_bytes(limit_gb: float | None, processes: Processes) -> int:
    """Memory for decoded images in this process: as given, or its part of the machine's."""
    if limit_gb is not None:
        return int(limit_gb * 1e9)
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not known on this system
        memory = 8 << 30
    return memory // 4 // local_count(processes)


def _threads(processes: Processes) -> int:
    return min(8, max(1, (os.cpu_count() or 1) // local_count(processes)))


def local_count(processes: Processes) -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))


def files_of(pairs: Iterable[Pair]) -> Iterable[Path]:
    """The files of pairs, which must not be overwritten."""
    for pair in pairs:
        yield from (file for file in (pair.image, pair.label) if isinstance(file, Path))
