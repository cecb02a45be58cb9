"""What test_distributed.py runs in two processes: `torchrun ... distributed_worker.py FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_data import read

from fastseg.engine.evaluate import evaluate
from fastseg.engine.processes import data_parallel, launched
from fastseg.engine.step import TrainingStep, weight_of
from fastseg.nn.sync_batch_norm import SyncBatchNorm2d, synchronised

from training_case import (  # isort: skip
    BATCH, MODELS, WEIGHTS, batch_norm_case, interrupt, made, make_trainer, step_case, tiny,
)  # fmt: skip


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with launched(torch.device("cpu")) as (processes, device):
        assert device.type == "cpu"
        rank = processes.rank
        results: dict[str, object] = {"rank": rank}

        x, target = batch_norm_case()
        # Uneven parts: 1 and 3 of the 4 images.
        mine = slice(0, 1) if rank == 0 else slice(1, 4)
        for name, affine in (("norm", True), ("plain norm", False)):
            norm = SyncBatchNorm2d(x.shape[1], affine=affine).double().train()
            part = x[mine].clone().requires_grad_()
            output = norm(part)
            (output * target[mine]).sum().backward()
            results[name] = {
                "output": output.detach(),
                "grad": part.grad,
                "state": norm.state_dict(),
                "parameters": [p.grad for p in norm.parameters()],
            }

        for name in MODELS:
            model = synchronised(made(name).double()).train()
            images, labels, colors = step_case()
            half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
            step = data_parallel(TrainingStep(model, WEIGHTS.double(), label_smoothing=0.1))
            weight = torch.tensor([weight_of(labels[half], WEIGHTS)], dtype=torch.float64)
            share = 2 * weight.item() / processes.sum(weight.clone()).item()
            loss = step(images[half], labels[half], colors[half], share)
            loss.backward()
            results[name] = {
                "loss": processes.sum(loss.detach().clone()) / 2,
                "grads": {k: p.grad for k, p in model.named_parameters()},
                "state": model.state_dict(),
            }

        split = read(folder / "set", "val")
        results["matrix"] = evaluate(tiny(), split, processes=processes, void_row=True)

        trainer = make_trainer(folder / "set", folder / "two", processes)
        if rank == 1:
            interrupt(trainer, 3)
        results["outcome"] = trainer.run().stopped
        results["iteration"] = trainer.iteration
        trainer = make_trainer(folder / "set", folder / "one to two", processes)
        trainer.resume(folder / "one to two" / "last.pt")
        trainer.run()
        results["weights"] = trainer.model.state_dict()
        torch.save(results, folder / f"rank{rank}.pt")
        dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
