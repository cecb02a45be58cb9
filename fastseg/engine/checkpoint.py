"""The state of a training run in a file, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .._files import written_whole
from .._messages import reason
from ..models.description import TRAINING_FORMAT, is_training_checkpoint
from ..models.files import read_tensors


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the file and says why."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a state of tensors, numbers, strings, lists and dicts."""
    with written_whole(path) as file:
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
