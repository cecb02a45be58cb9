"""Commands that run on one process or, launched by torchrun, on many."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import typer

from .._files import FolderError
from .._memory import memory_errors
from ..data import DatasetError
from ..engine.checkpoint import CheckpointError
from ..engine.processes import Processes, launched
from ..engine.trainer import TrainingError
from .console import fail, note, reason, report


class Failure(Exception):
    """Ends the command; the message says why."""


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Starts the command's processes and gives this one's device; only rank 0 reports errors."""
    try:
        with launched(device) as (processes, own_device):
            try:
                with memory_errors():
                    yield processes, own_device
            except (CheckpointError, DatasetError, Failure, FolderError, TrainingError) as error:
                if processes.first:
                    report(error)
                raise typer.Exit(1) from error
            except MemoryError as error:  # perhaps in this process alone
                report(f"out of memory ({reason(error)}); try smaller images or batches")
                raise typer.Exit(1) from error
    except ValueError as error:
        fail(error)


def say(processes: Processes, message: str) -> None:
    """Prints one line to stderr, in the first process."""
    if processes.first:
        note(message)
