"""Two processes compute what one computes. All of it runs in one pair of processes, once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("PIL")

from tiny_data import make_dataset, read
from training_case import (
    MODELS,
    WEIGHTS,
    batch_norm_case,
    interrupt,
    made,
    make_trainer,
    step_case,
    tiny,
)  # fmt: skip

from fastseg.engine.evaluate import evaluate
from fastseg.engine.step import TrainingStep
from fastseg.nn.sync_batch_norm import SyncBatchNorm2d, synchronised

HERE = Path(__file__).resolve().parent


def torchrun(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    paths = [str(HERE.parent.parent), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [*command, *(str(a) for a in arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    make_dataset(folder / "set", {"train": 5, "val": 5})
    trainer = make_trainer(folder / "set", folder / "one to two")
    interrupt(trainer, 3)
    assert trainer.run().iteration == 3
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[dict[str, Any]]:
    done = torchrun(HERE / "distributed_worker.py", folder)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> dict[str, torch.Tensor]:
    trainer = make_trainer(folder / "set", folder / "one")
    trainer.run()
    return trainer.model.state_dict()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize(("name", "affine"), [("norm", True), ("plain norm", False)])
def test_batch_norm_is_that_of_the_whole_batch(
    ranks: list[dict[str, Any]], name: str, affine: bool
) -> None:
    x, target = batch_norm_case()
    x.requires_grad_()
    norm = nn.BatchNorm2d(x.shape[1], affine=affine).double().train()
    output = norm(x)
    (output * target).sum().backward()
    close(torch.cat([rank[name]["output"] for rank in ranks]), output)
    close(torch.cat([rank[name]["grad"] for rank in ranks]), x.grad)
    for index, parameter in enumerate(norm.parameters()):
        close(sum(rank[name]["parameters"][index] for rank in ranks), parameter.grad)
    for rank in ranks:
        assert rank[name]["state"].keys() == norm.state_dict().keys()
        for key, value in norm.state_dict().items():
            close(rank[name]["state"][key], value)
            assert torch.equal(rank[name]["state"][key], ranks[0][name]["state"][key])


@pytest.mark.parametrize("name", MODELS)
def test_step_is_that_of_the_whole_batch(ranks: list[dict[str, Any]], name: str) -> None:
    """Loss, gradients and statistics; one process has 1/8 of its pixels, the other all."""
    model = made(name).double().train()
    step = TrainingStep(model, WEIGHTS.double(), label_smoothing=0.1)
    loss = step(*step_case())
    loss.backward()
    for rank in ranks:
        close(rank[name]["loss"], loss)
        assert rank[name]["grads"].keys() == dict(model.named_parameters()).keys()
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None, f"{key} is unused"
            close(rank[name]["grads"][key], parameter.grad, 1e-7)
        for key, value in model.state_dict().items():
            close(rank[name]["state"][key], value)


def test_evaluation_has_the_same_counts(ranks: list[dict[str, Any]], folder: Path) -> None:
    """Five images on two processes: none twice, none left out."""
    matrix = evaluate(tiny(), read(folder / "set", "val"), void_row=True)
    assert matrix.sum() == 5 * 48 * 64
    for rank in ranks:
        assert torch.equal(rank["matrix"], matrix)


def test_one_signal_ends_all_at_the_same_step(ranks: list[dict[str, Any]]) -> None:
    assert [rank["iteration"] for rank in ranks] == [3, 3]
    assert all(rank["outcome"].startswith("by ") for rank in ranks)


def test_two_processes_continue_with_one(
    ranks: list[dict[str, Any]], folder: Path, uninterrupted: dict[str, torch.Tensor]
) -> None:
    trainer = make_trainer(folder / "set", folder / "two")
    trainer.resume(folder / "two" / "last.pt")
    assert trainer.iteration == 3
    trainer.run()
    for key, value in trainer.model.state_dict().items():
        close(value, uninterrupted[key], 1e-6)


def test_one_process_continues_with_two(
    ranks: list[dict[str, Any]], uninterrupted: dict[str, torch.Tensor]
) -> None:
    for rank in ranks:
        for key, value in rank["weights"].items():
            close(value, uninterrupted[key], 1e-6)
            assert torch.equal(value, ranks[0]["weights"][key])


def test_synchronised_keeps_tensors_and_names() -> None:
    model = made("deeplab")
    before = {**model.state_dict(keep_vars=True)}
    norms = sum(type(m) is nn.BatchNorm2d for m in model.modules())
    assert synchronised(model) is model
    after = model.state_dict(keep_vars=True)
    assert list(before) == list(after)
    assert all(before[key] is after[key] for key in before)
    assert sum(type(m) is SyncBatchNorm2d for m in model.modules()) == norms > 50
    assert not any(type(m) is nn.BatchNorm2d for m in model.modules())


def test_without_processes_it_is_batch_norm() -> None:
    x = torch.randn(3, 4, 5, 6)
    plain, own = nn.BatchNorm2d(4), SyncBatchNorm2d(4)
    assert torch.equal(plain(x), own(x))
    assert torch.equal(plain.running_var, own.running_var)
    with pytest.raises(ValueError, match="shape"):
        own(x[0])
