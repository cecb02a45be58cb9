"""Tensors of caches on a GPU: read by streams that the allocator does not know of."""

from __future__ import annotations

import torch

# By address; for as long as the process lives.
_in_graphs: dict[int, torch.Tensor] = {}


def in_use(*tensors: torch.Tensor) -> None:
    """Notes that the current stream reads tensors of a cache.

    When the cache drops them, their memory goes to others only after what this stream has to do
    until then. A CUDA graph reads them at every replay: while one is captured, they are kept.
    """
    for x in tensors:
        if not x.is_cuda:
            continue
        if torch.cuda.is_current_stream_capturing():
            _in_graphs[x.data_ptr()] = x
        else:
            x.record_stream(torch.cuda.current_stream(x.device))


def copied(table: torch.Tensor, device: torch.device, what: str) -> torch.Tensor:
    """A copy of a table on a device, for a cache.

    Raises:
        RuntimeError: a CUDA graph is being captured, which must not wait for a copy.
    """
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"{what}: the first call with these sizes is inside the capture of a CUDA graph, where "
            "nothing can be copied from the host: call it once before the capture"
        )
    return table.to(device)
