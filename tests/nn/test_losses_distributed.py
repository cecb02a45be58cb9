"""Losses over the processes of a group: those of the joined batch, and so are their gradients."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from losses_worker import case, losses


def test_two_processes_are_one_on_the_joined_batch(tmp_path: Path) -> None:
    worker = Path(__file__).with_name("losses_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, worker, tmp_path / "rank"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, loss in losses(None).items():
        network, images, target = case()
        expected = loss(network(images), target)
        expected.backward()
        for rank in (0, 1):
            value, grads = torch.load(tmp_path / f"rank{rank}")[name]
            torch.testing.assert_close(value, expected.detach(), rtol=1e-12, atol=0)
            for grad, parameter in zip(grads, network.parameters(), strict=True):
                torch.testing.assert_close(grad, parameter.grad, rtol=1e-9, atol=1e-12)
