"""Files that are written whole or not at all."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_TEMPORARY = re.compile(r"\..+\.(\d+)\.part")  # .NAME.PID.part


def in_its_place(path: Path) -> str:
    """What a file that was downloaded wrongly holds, to append to a message; "" if not known."""
    try:
        with path.open("rb") as file:
            begin = file.read(200).lstrip().lower()
    except OSError:
        return ""
    if begin.startswith(b"version https://git-lfs"):
        return ": a pointer of Git LFS, whose file `git lfs pull` fetches"
    if begin.startswith((b"<!doctype html", b"<html")):
        return ": a web page, an error of the download perhaps"
    return ": an empty file" if not begin else ""


_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_lines(path: Path, most: int) -> list[str]:
    """The lines of a text file of at most `most` bytes, as editors and spreadsheets write them.

    Read as UTF-8, as what a byte order mark says, or else as Windows' Western European text.

    Raises:
        OSError: it cannot be read. ValueError: it is too large, or no text.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"has more than {most} bytes, which are allowed")
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    for encoding in (marked,) if marked else ("utf-8", "cp1252"):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError as error:
            problem = f"is no text ({error.reason} at byte {error.start}): save it as UTF-8"
            continue
        if "\0" not in text:
            return text.splitlines()
        problem = "is no text: it has bytes of value 0"
        break
    raise ValueError(problem)


@contextlib.contextmanager
def written_whole(
    path: Path, *, durable: bool = False, previous: Path | None = None
) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` when the block ends without an error.

    Missing folders are made. After an error, or a kill, `path` is what it was before.

    Args:
        durable: whether the file is on the disk, and not only in the system's cache, before it
            takes the place: then this holds after a power cut too.
        previous: keeps what `path` was before. There is a `path` at every moment.

    Raises:
        OSError: it cannot be written, also where the writer (torch.save) makes another error of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because only within one file system is the replacement atomic.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with _Output(io.FileIO(temporary, "wb")) as file:
            try:
                yield file
            except Exception as error:
                if file.error is not None and not isinstance(error, OSError):
                    raise file.error from error
                raise
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        temporary.replace(path)
        if durable:
            _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


class _Output(io.BufferedWriter):
    """A file that remembers why it could not be written to."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _keep(path: Path, previous: Path) -> None:
    """Gives the file the name `previous` as well, in place of a file of that name."""
    second = previous.with_name(f".{previous.name}.{os.getpid()}.part")
    try:
        second.unlink(missing_ok=True)
        second.hardlink_to(path)
        second.replace(previous)
    except OSError:  # a file system without links: for a moment there is `previous` alone
        path.replace(previous)
    finally:
        second.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder last a power cut, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:  # network file systems that cannot
        pass
    finally:
        os.close(handle)


def remove_orphans(folder: Path) -> list[Path]:
    """Removes what killed processes were writing with `written_whole`; not what others still are.

    Call it before this process writes to the folder: files of its number are those of a process
    that had it earlier, as in containers.

    Returns:
        The removed files.
    """
    removed = []
    for path in sorted(folder.glob(".*.part")):
        match = _TEMPORARY.fullmatch(path.name)
        if match and (int(match[1]) == os.getpid() or not is_alive(int(match[1]))):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def is_alive(process: int) -> bool:
    """Whether this machine runs a process of this number."""
    if os.name != "posix":
        return True  # os.kill would end it there
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's
        return True
    return True


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
