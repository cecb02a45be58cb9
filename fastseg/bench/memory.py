"""Peak memory that a call adds."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

from .timing import Variant

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def peak_extra_bytes(variant: Variant, device: str) -> int | None:
    """The peak memory in use during a call, minus that before it; None if it cannot be measured.

    Results count, and so does everything temporary. On a GPU it is what PyTorch's allocator handed
    out; on a CPU the growth of the resident set, which also sees what native code allocates itself
    (Linux only).
    """
    state = variant.setup()
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = variant.run(state)
        torch.cuda.synchronize()
        del result
        return torch.cuda.max_memory_allocated() - before
    if not _reset_peak():
        return None
    before = _resident("VmRSS")
    result = variant.run(state)
    del result
    return max(0, _resident("VmHWM") - before)


def _reset_peak() -> bool:
    """Hands free heap pages back to the system, so that using them again counts, and sets the peak
    of the resident set to its present size."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR_REFS.write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {field}")
