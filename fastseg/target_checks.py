"""Whether CUDA ops look for targets that are no class, which means waiting for the device."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from types import TracebackType

import torch

from ._checks import bad_target

_enabled: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "fastseg_check_targets", default=False
)


@contextlib.contextmanager
def check_targets(enabled: bool = True) -> Iterator[None]:
    """Inside, ops on CUDA tensors raise ValueError for a target that is no class, as on the CPU.

    Each call then waits for the device, so it is for finding a fault in a data set, and cannot run
    in a CUDA graph. Outside, a pixel with such a target makes the loss NaN and is counted in no
    confusion matrix.

    Args:
        enabled: False switches the checks off again inside.
    """
    token = _enabled.set(enabled)
    try:
        yield
    finally:
        _enabled.reset(token)


class TargetCheck:
    """Around a launch that lowers *pointer to the flat index of the first bad target: raises the
    error that the CPU raises, where checks are on. Else the pointer is null."""

    def __init__(self, target: torch.Tensor, classes: int, ignore_index: int) -> None:
        self._arguments = (classes, ignore_index)
        self._target = target
        self._first = None
        if _enabled.get():
            none = torch.iinfo(torch.int64).max
            self._first = torch.full((), none, dtype=torch.int64, device=target.device)

    @property
    def pointer(self) -> int:
        """Where the kernel puts the index, or 0."""
        return 0 if self._first is None else self._first.data_ptr()

    def __enter__(self) -> TargetCheck:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None or self._first is None:
            return
        first = int(self._first)
        if first != torch.iinfo(torch.int64).max:
            raise bad_target(self._target, first, *self._arguments)
