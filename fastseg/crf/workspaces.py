"""Memory that a dense CRF on the CPU keeps between calls."""

from __future__ import annotations

from .. import _native


def limit_workspaces(max_bytes: int) -> None:
    """Limits the memory kept between calls, and frees the excess at once.

    A CRF needs large arrays: workspaces, lattices, results. The system clears each page that it
    hands out, which takes longer than much of what is computed in it; so memory of 256 KiB and more
    that is not needed any more (results too, when nobody holds them) is kept for the next call, up
    to 768 MiB in all. limit_workspaces(0) frees everything and keeps nothing from then on.

    Args:
        max_bytes: at least 0. For the whole process.

    Raises:
        ValueError: a negative number.
    """
    if max_bytes < 0:
        raise ValueError(f"max_bytes is {max_bytes}, expected at least 0")
    if _native._C is not None:
        _native._C.set_scratch_limit(max_bytes)
