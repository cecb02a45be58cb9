"""Running out of memory, whoever says so and however."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import torch

from ._messages import reason

# Messages of the RuntimeErrors that PyTorch and its libraries raise in place of a MemoryError.
_SIGNS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "out of memory",
    "Cannot allocate memory",
    "bad_alloc",
    "Storage size calculation overflowed",
    "could not create a memory object",
    "ALLOC_FAILED",
    "can't start new thread",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory is short, on the CPU or on a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextlib.contextmanager
def memory_errors() -> Iterator[None]:
    """Turns every exception of the block that says that memory is short into a MemoryError."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or not is_out_of_memory(error):
            raise
        raise MemoryError(reason(error)) from error
