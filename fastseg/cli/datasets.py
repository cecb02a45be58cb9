"""Reading data sets, with a progress bar."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..data import Labelling, Pair, Split
from ..engine.processes import Processes
from .console import progress_bar


def read_split(
    name: str, pairs: list[Pair], labelling: Labelling, processes: Processes, cache_bytes: int
) -> Split:
    """Reads and checks all files of a split. Raises DatasetError at files that are wrong."""
    shown = processes.first
    with progress_bar(f"reading {name or 'the images'}", len(pairs), shown) as progress:
        return Split(
            name,
            pairs,
            labelling,
            cache_bytes=cache_bytes,
            threads=min(8, max(1, (os.cpu_count() or 1) // local_count(processes))),
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


def local_count(processes: Processes) -> int:
    """The number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes.count))


def files_of(pairs: Iterable[Pair]) -> Iterable[Path]:
    """The files of pairs: what may not be written over."""
    for pair in pairs:
        yield from (file for file in (pair.image, pair.label) if isinstance(file, Path))


def describe(labelling: Labelling, splits: Iterable[Split]) -> str:
    """One line: how many images, which classes, what is ignored, and where that is known from."""
    counts = ", ".join(f"{len(split)} {split.name or 'images'}" for split in splits)
    names = ", ".join(labelling.classes.names[:12])
    names += ", ..." if len(labelling.classes) > 12 else ""
    ignored = ", ".join(str(value) for value in sorted(labelling.ignored))
    return (
        f"{counts}; {len(labelling.classes)} classes ({names}), ignored labels {ignored}, "
        f"from {labelling.origin}"
    )
