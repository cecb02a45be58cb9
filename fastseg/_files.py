"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends without an error.

    Missing folders are made. After an error, or a kill, `path` is what it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because only within one file system is the replacement atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class FolderError(Exception):
    """A folder that results cannot be written to; the message says why."""


def check_folder(name: str, folder: Path) -> None:
    """Results can be written to `folder`, which need not be there: said before the work, not after.

    Raises:
        FolderError: a file is in its way, or the permission is missing; begins with `name`.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise FolderError(f"{name} is {folder}, but {existing} is no folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise FolderError(f"{name} is {folder}, but {existing} may not be written to")
