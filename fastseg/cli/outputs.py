"""The files that a command writes; it overwrites neither its inputs nor its own results."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from .._files import FolderError


class OutputError(FolderError):
    """A file that must not be written; the message names it and says why."""


class Outputs:
    """The files that one command writes, beside those that it reads.

    Args:
        inputs: files that are read; folders stand for the files in them.
        option: that says where the results go, for messages.
    """

    def __init__(self, inputs: Iterable[Path], option: str = "--out") -> None:
        self._inputs = [*inputs]
        self._option = option
        self._known: dict[tuple[int, int], Path] | None = None
        self._claimed: set[str] = set()

    def claim(self, path: Path) -> Path:
        """The path, which this command may write from now on.

        Raises:
            OutputError: it is a file that the command reads, by this or another name (a link, other
                case), or one that it writes already.
        """
        if (found := _identity(path)) is not None:
            if self._known is None:
                self._known = dict(_identities(self._inputs))
            if found in self._known:
                read = self._known[found]
                other = "" if read == path else f", by the name {path}"
                raise OutputError(
                    f"{read}: is read by this command and would be written over{other}; "
                    f"choose another {self._option}"
                )
        name = output_key(path)
        if name in self._claimed:
            raise OutputError(f"{path}: is the result of two inputs; choose another {self._option}")
        self._claimed.add(name)
        return path


def files_in(words: Iterable[str] | None) -> list[Path]:
    """The words of an option, of --label-map perhaps, that are files."""
    return [Path(word) for word in words or () if len(word) < 4096 and Path(word).is_file()]


def output_key(path: Path) -> str:
    """Equal for paths that name one file on every file system.

    Some do not tell upper from lower case, or the two ways to write an accent.
    """
    return folded(os.path.join(os.path.realpath(path.parent), path.name))


def folded(path: str | Path) -> str:
    """Equal for relative paths that name one file on every file system."""
    return unicodedata.normalize("NFC", str(path)).casefold()


def _identities(paths: Iterable[Path]) -> Iterable[tuple[tuple[int, int], Path]]:
    for path in paths:
        if path.is_dir():
            yield from _identities(child for child in path.iterdir() if child.is_file())
        elif (found := _identity(path)) is not None:
            yield found, path


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of the file behind a path, links followed; None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
