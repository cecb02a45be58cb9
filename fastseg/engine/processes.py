"""The processes of a distributed run, and the sums they exchange."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those that train together; one alone needs no torch.distributed."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes, in place."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Waits until all processes have called it."""
        if self.count > 1:
            dist.barrier()


def data_parallel(module: nn.Module) -> DistributedDataParallel:
    """A module whose gradients are averaged over the processes.

    Buffers are not broadcast, since synchronised batch norms keep their statistics equal.
    """
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    return DistributedDataParallel(module, gradient_as_bucket_view=True, **options)


@contextlib.contextmanager
def launched(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """The processes that torchrun launched, joined; one alone without torchrun.

    Messages go through gloo on CPUs and nccl on GPUs. Each local process takes a GPU of its own.

    Raises:
        ValueError: more local processes than GPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(), device
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    backend = "gloo"
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"process {local} of this machine has no GPU: torch sees "
                f"{torch.cuda.device_count()}"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=rank, world_size=count)
    try:
        yield Processes(rank, count), device
    finally:
        dist.destroy_process_group()
