"""The state of a training run in a file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .._files import written_whole
from .._json import checked
from .._messages import reason
from .._schema import ANYTHING, PLAIN, Array, Instance, Integer, Number, Record, Table, nullable
from ..models.description import (
    TRAINING_FORMAT,
    WEIGHTS,
    StoredDescription,
    is_training_checkpoint,
)
from ..models.files import read_tensors
from .run_folder import LAST, PREVIOUS

_VALIDATION = Record({"iteration": Integer(0), "mIoU": nullable(Number(0, 1))}, others=PLAIN)
_STATE = Record(
    {
        "description": StoredDescription(),
        "config": Table(PLAIN),
        "iteration": Integer(0),
        "weights": WEIGHTS,
        "averaged": nullable(WEIGHTS),
        "optimizer": Record({"state": Instance(dict, "an object")}, others=ANYTHING),
        "history": Record(
            {
                "losses": Array(Instance(float, "a number")),
                "validations": Array(_VALIDATION),
            }
        ),
    },
    others=ANYTHING,
)


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and says why."""


def save(path: Path, state: dict[str, Any], previous: Path | None = None) -> None:
    """Writes a state of tensors, numbers, strings, lists and dicts.

    Args:
        previous: keeps the checkpoint that was there.

    Raises:
        OSError: it cannot be written; the checkpoints that were there still are.
    """
    with written_whole(path, durable=True, previous=previous) as file:
        torch.save({"format": TRAINING_FORMAT, **state}, file)


def load(path: Path) -> dict[str, Any]:
    """The state that `save` wrote, its tensors on the CPU.

    Raises:
        CheckpointError: there is no such file, it is damaged, or something else.
    """
    try:
        state = read_tensors(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {reason(error)}") from error
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if not is_training_checkpoint(state):
        raise CheckpointError(f"{path}: not a checkpoint of fastseg train")
    return state


def load_run(path: Path) -> dict[str, Any]:
    """The state of a run that can go on, every entry of the right kind.

    Raises:
        CheckpointError: as `load`, or an entry is missing or another thing.
    """
    try:
        return checked(str(path), load(path), _STATE)
    except ValueError as error:
        raise CheckpointError(f"{error} (not written by this version of fastseg train)") from error


def load_latest(folder: Path) -> tuple[Path, dict[str, Any], str]:
    """The last checkpoint of a run, or the one before if the last is damaged.

    Returns:
        Its path, its state, and what is wrong with the last one, "" if nothing is.

    Raises:
        CheckpointError: neither can be used.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    try:
        return last, load_run(last), ""
    except CheckpointError as error:
        if not previous.exists():
            raise
        try:
            return previous, load_run(previous), str(error)
        except CheckpointError as other:
            raise CheckpointError(f"{error}; and {other}") from other
