"""Warns about targets that teach nothing, without waiting for a GPU."""

from __future__ import annotations

import warnings
import weakref

import torch
from torch import nn

from .._private_torch import are_functorch_transforms_active

_Pending = tuple[torch.Tensor, "torch.cuda.Event | None"]
# Per module: counts that are on their way from the device, or None once it was checked.
_known: weakref.WeakKeyDictionary[nn.Module, _Pending | None] = weakref.WeakKeyDictionary()


def trust_targets(module: nn.Module) -> None:
    """Makes `watch_targets` skip a module whose targets were checked already."""
    _known[module] = None


def watch_targets(module: nn.Module, target: torch.Tensor, ignore_index: int) -> None:
    """Warns if the first target of a module holds one class and ignored pixels only.

    Masks of 0 and 255 are such targets if 255 is ignored: the loss is finite, and nothing is
    learned. On a GPU the counts come back with the next call, if they are there by then.

    Args:
        module: that the loss is of; each is looked at once.
        target: classes [N, H, W].
        ignore_index: target value of pixels that do not count.
    """
    # First of all: a compiler would guard what it reads of _known, where modules come and go.
    if torch.compiler.is_compiling():
        return
    pending = _known.get(module, _NEW)
    if pending is None:
        return
    if pending is _NEW:
        pending = _count(target, ignore_index)
        if pending is None:
            return
        _known[module] = pending
    counts, event = pending
    if event is not None and not event.query():
        return
    _known[module] = None
    ignored, total, low, high = counts.tolist()
    if 0 < ignored < total and low == high:
        warnings.warn(
            f"all pixels of the target that count are class {low}, and the others "
            f"({100 * ignored / total:.0f} %) are {ignore_index}, which is ignored: nothing can be "
            f"learned from it. If {ignore_index} is a class of its own, as in masks of 0 and 255, "
            f"pass (target == {ignore_index}).long(), or another ignore_index",
            stacklevel=3,
        )


_NEW: _Pending = (torch.empty(0), None)


@torch.no_grad()
def _count(target: torch.Tensor, ignore_index: int) -> _Pending | None:
    """Ignored pixels, all pixels, lowest and highest class; None if they are not available now."""
    if type(target) is not torch.Tensor or target.numel() == 0 or target.is_floating_point():
        return None
    if are_functorch_transforms_active() or torch.jit.is_tracing():
        return None
    if target.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    values = target.detach().long()
    ignored = values == ignore_index
    low = values.masked_fill(ignored, torch.iinfo(torch.int64).max).amin()
    high = values.masked_fill(ignored, torch.iinfo(torch.int64).min).amax()
    total = torch.full_like(low, target.numel())
    counts = torch.stack([ignored.sum(), total, low, high])
    if not target.is_cuda:
        return (counts, None) if target.device.type == "cpu" else None
    there = torch.empty(counts.shape, dtype=counts.dtype, pin_memory=True)
    there.copy_(counts, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return there, event
