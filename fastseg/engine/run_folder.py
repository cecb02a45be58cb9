"""The folder of a training run: one run at a time writes to it, and what it was asked for."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from .._files import FolderError, is_alive, remove_orphans, written_whole
from .._json import read_json
from .._schema import PLAIN, Record, Table, Text
from .._version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LAST, PREVIOUS, BEST, MODEL = "last.pt", "previous.pt", "best.pt", "model"
RUN = "run.json"
_LOCK = ".lock"
_FORMAT = "fastseg run 1"
_RUN = Record({"format": Text((_FORMAT,)), "options": Table(PLAIN)}, others=PLAIN)


class FolderLock:
    """The right to write to a training folder, of one process at a time.

    The lock is the system's (flock), and ends with the process, however that ends. Where the file
    system has none, the number of the process in the lock file decides, on its own machine.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: IO[str] | None = None
        self._made = False

    @property
    def held(self) -> bool:
        return self._file is not None

    def __enter__(self) -> FolderLock:
        """Takes the lock, and removes what killed runs left half-written.

        Raises:
            FolderError: another run has it.
        """
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _LOCK
        while True:
            file = path.open("a+", encoding="utf-8", errors="replace")
            try:
                self._take(file, path)
                # The run before may have removed the file between the two steps.
                if _same_file(file, path):
                    break
            except BaseException:
                file.close()
                raise
            file.close()
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its text
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"{os.getpid()} {socket.gethostname()}\n".encode())
        self._file = file
        for folder in (self.folder, self.folder / MODEL):
            remove_orphans(folder)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            # Removed while it is still locked: nobody else can have this very file.
            with contextlib.suppress(OSError):
                (self.folder / _LOCK).unlink()
            self._file.close()
            self._file = None
        if self._made:
            with contextlib.suppress(OSError):  # it is not empty
                self.folder.rmdir()

    def _take(self, file: IO[str], path: Path) -> None:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                raise FolderError(_taken(file, self.folder)) from None
            except OSError:
                pass  # a file system without locks
        file.seek(0)
        number, _, host = file.read(200).strip().partition(" ")
        if number.isdigit() and int(number) != os.getpid():
            if host != socket.gethostname() or is_alive(int(number)):
                raise FolderError(_taken(file, self.folder, f"; if it is not, remove {path}"))


def _taken(file: IO[str], folder: Path, hint: str = "") -> str:
    file.seek(0)
    number, _, host = file.read(200).strip().partition(" ")
    who = f" (process {number} on {host})" if number.isdigit() else ""
    return f"{folder}: another training is writing to it{who}; choose another --out{hint}"


def _same_file(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def locked(lock: FolderLock | None, folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, for which `lock` may hold it already."""
    if lock is not None and lock.held:
        yield
    else:
        with lock or FolderLock(folder):
            yield


def has_run(folder: Path) -> bool:
    """Whether there is a checkpoint in a folder."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def write_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Records what a run was asked for, as plain values."""
    content = {"format": _FORMAT, "version": __version__, "options": dict(options)}
    with written_whole(folder / RUN, durable=True) as file:
        file.write(json.dumps(content, indent=1).encode())


def read_options(folder: Path) -> dict[str, Any] | None:
    """What `write_options` recorded; None without the file.

    Raises:
        ValueError: the file is damaged; the message names the field.
    """
    try:
        return read_json(folder / RUN, _RUN)["options"]
    except FileNotFoundError:
        return None
