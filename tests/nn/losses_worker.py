"""What test_losses_distributed.py runs in two processes: `torchrun ... losses_worker.py FILE`."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fastseg.nn import CombinedLoss, DiceLoss, FocalLoss


def case() -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A network, four images and their targets, in which the classes are spread unevenly."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(1)
    network = torch.nn.Conv2d(3, 4, 3, padding=1).double()
    images = torch.randn(4, 3, 6, 5, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (4, 22, 19), generator=generator)
    target[0][target[0] > 1] = 255
    return network, images, target


def losses(process_group: Any) -> dict[str, torch.nn.Module]:
    """Losses whose sums are those of `process_group`."""
    options = {"ignore_index": 255, "process_group": process_group}
    return {
        "ce+dice": CombinedLoss(ce=1, dice=0.5, **options),
        "log dice": DiceLoss(log_loss=True, **options),
        "focal": FocalLoss(normalized=True, **options),
    }


def main(file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    results = {}
    for name, loss in losses(True).items():
        network, images, target = case()
        model = DistributedDataParallel(network)
        mine = slice(0, 1) if rank == 0 else slice(1, 4)  # uneven parts
        value = loss(model(images[mine]), target[mine])
        value.backward()
        results[name] = (value.detach(), [p.grad for p in network.parameters()])
    torch.save(results, f"{file}{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
