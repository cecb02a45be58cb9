"""Commands that run on one process or, launched by torchrun, on many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import typer

from .._files import FolderError
from .._messages import one_line
from ..data import DatasetError
from ..engine.checkpoint import CheckpointError
from ..engine.processes import Processes, launched
from ..engine.trainer import TrainingError
from .console import err, fail, report


class Failure(Exception):
    """Ends the command; the message says why."""


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes of the command, and this one's device. Of all, the first says what fails."""
    try:
        with launched(device) as (processes, own_device):
            try:
                yield processes, own_device
            except (CheckpointError, DatasetError, Failure, FolderError, TrainingError) as error:
                if processes.first:
                    report(error)
                raise typer.Exit(1) from error
            except torch.OutOfMemoryError as error:  # perhaps in this process alone
                report(f"{one_line(error)}; try smaller images or batches")
                raise typer.Exit(1) from error
    except ValueError as error:
        fail(error)


def say(processes: Processes, message: str) -> None:
    """Prints one line to stderr, in the first process."""
    if processes.first:
        err.print(one_line(message), soft_wrap=True, markup=False, highlight=False)
