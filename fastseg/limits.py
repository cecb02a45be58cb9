"""How much a file from outside may make fastseg allocate, and how to allow more."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

__all__ = ["Limits", "adopt", "limits", "use_limits"]


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits on what a file may ask for; beyond them it is refused before anything is allocated.

    Attributes:
        classes: classes of one model.
        json_bytes: size of a JSON file.
        pixels: pixels of one image or label map; of more than four bands each four count.
        tensor_bytes: memory that the tensors of a checkpoint may take beyond four times the bytes
            that the file stores of them; views that repeat one value need it, and zip archives.
    """

    classes: int = 65_536
    json_bytes: int = 256 << 20
    pixels: int = 1024 * 1024 * 1024 // 4 // 3  # as Pillow's MAX_IMAGE_PIXELS
    tensor_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"{name} is {value!r}, expected a whole number of at least 0")


_current: contextvars.ContextVar[Limits] = contextvars.ContextVar("limits", default=Limits())  # noqa: B039


def limits() -> Limits:
    """The limits of this thread.

    Returns:
        Those of the innermost `use_limits`, or the defaults.
    """
    return _current.get()


def adopt(found: Limits) -> None:
    """Takes over another thread's limits: for threads started inside `use_limits`.

    Args:
        found: limits() of the thread that started this one.
    """
    _current.set(found)


@contextlib.contextmanager
def use_limits(**changes: int) -> Iterator[Limits]:
    """Changes limits for the calls inside the block, in this thread.

    Args:
        changes: attributes of `Limits` with their new values.

    Raises:
        ValueError: no such limit, or a value below 0.
    """
    known = [field.name for field in dataclasses.fields(Limits)]
    for name in changes:
        if name not in known:
            raise ValueError(f"no limit is called {name!r}, allowed are {', '.join(known)}")
    token = _current.set(dataclasses.replace(limits(), **changes))
    try:
        yield limits()
    finally:
        _current.reset(token)
