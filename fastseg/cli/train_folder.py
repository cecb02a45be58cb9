"""The folder that `fastseg train` writes: one run at a time, and nothing is overwritten."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .._files import FolderError
from ..engine.history import CURVE, METRICS
from ..engine.processes import Processes
from ..engine.run_folder import BEST, LAST, PREVIOUS, RUN, FolderLock, has_run
from .console import reason
from .joined import Failure
from .outputs import Outputs


def found_run(folder: Path, resume: bool) -> bool:
    """Whether the folder holds a run to continue.

    Raises:
        Failure: it holds one that is not to be continued, or the rest of one that cannot be.
    """
    if not resume:
        for name in (LAST, PREVIOUS, BEST):
            if (folder / name).exists():
                how = "continue it with --resume, or choose" if has_run(folder) else "choose"
                raise Failure(f"{folder / name} exists: {how} another --out")
        return False
    if has_run(folder):
        return True
    if (folder / METRICS).exists():  # which is written after the first checkpoint
        raise Failure(
            f"--resume: {LAST} and {PREVIOUS} of the run in {folder} are gone; to train "
            f"on from what is left, give --init {folder / BEST} and another --out"
        )
    return False


def claim(folder: Path, inputs: Sequence[Path], files: Sequence[Path]) -> None:
    """Makes sure that no file of the run is an input, or would become an image of the data set.

    Args:
        folder: of the run.
        inputs: files that the run reads besides the data set.
        files: images and label maps of the data set.

    Raises:
        Failure: one is.
    """
    outputs = Outputs([*inputs, *files])
    for name in (BEST, LAST, PREVIOUS, RUN, METRICS, CURVE):
        outputs.claim(folder / name)
    if any(folder.samefile(parent) for parent in {file.parent for file in files}):
        raise Failure(
            f"--out is {folder}, where the data set has images or label maps, and {CURVE} "
            "would be taken for one; choose another --out"
        )


@contextlib.contextmanager
def own_folder(folder: Path, processes: Processes) -> Iterator[FolderLock]:
    """Locks the folder in the first process; every process ends if that fails."""
    lock = FolderLock(folder)
    failed: Exception | None = None
    with contextlib.ExitStack() as stack:
        if processes.first:
            try:
                stack.enter_context(lock)
            except (FolderError, OSError) as error:
                failed = error
        if processes.sum(torch.tensor([failed is not None], dtype=torch.float64)).item():
            text = str(failed) if isinstance(failed, FolderError) else f"{folder}: not writable"
            if isinstance(failed, OSError):
                text = f"{folder}: {reason(failed)}"
            raise Failure(text) from failed
        yield lock
