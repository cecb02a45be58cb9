"""Training folders: one run at a time, nothing half-written, resumable after anything."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("PIL")

from tiny_data import make_dataset
from training_case import CONFIG, DESCRIPTION, make_trainer

from fastseg import _files
from fastseg._files import FolderError, remove_orphans, written_whole
from fastseg.engine import checkpoint, history, run_folder
from fastseg.engine.config import TrainConfig
from fastseg.engine.run_folder import LAST, PREVIOUS, FolderLock, read_options, write_options


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 6, "val": 2})


@pytest.fixture
def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


HOLDER = """
import sys, time
from pathlib import Path
from fastseg.engine.run_folder import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in the folder."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("flock", [True, False])
def test_the_second_training_in_a_folder_says_so(
    tmp_path: Path,
    holder: subprocess.Popen[str],
    flock: bool,
    monkeypatch: pytest.MonkeyPatch,
    dataset: Path,
) -> None:
    """Also where the file system has no locks; a killed run does not block the next."""
    if not flock:
        monkeypatch.setattr(run_folder, "fcntl", None)
    lock = FolderLock(tmp_path)
    with pytest.raises(FolderError, match=f"another training.*process {holder.pid} on"):
        lock.__enter__()
    assert not lock.held
    with pytest.raises(FolderError, match="another training"):
        make_trainer(dataset, tmp_path).run()
    assert not (tmp_path / LAST).exists()
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()
    with lock:
        assert lock.held
    assert not (tmp_path / ".lock").exists()


def test_the_lock_is_free_after_errors(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError), FolderLock(tmp_path):
            with pytest.raises(FolderError, match=f"process {os.getpid()} on"):
                FolderLock(tmp_path).__enter__()
            raise RuntimeError


def test_a_trainer_uses_the_lock_that_its_caller_holds(dataset: Path, tmp_path: Path) -> None:
    with FolderLock(tmp_path) as lock:
        trainer = make_trainer(dataset, tmp_path, time_limit=0.0)
        trainer._lock = lock
        trainer.run()
        assert lock.held


def test_what_killed_processes_were_writing_is_removed(tmp_path: Path, ended_process: int) -> None:
    alive = os.getppid()
    orphans = [tmp_path / f".last.pt.{ended_process}.part", tmp_path / f".a.b.{os.getpid()}.part"]
    others = [
        tmp_path / f".last.pt.{alive}.part", tmp_path / ".x.part", tmp_path / "last.pt.1.part",
        tmp_path / ".part", tmp_path / f"last.{ended_process}.pt", tmp_path / ".last.pt.x1.part",
    ]  # fmt: skip
    for path in (*orphans, *others):
        path.write_bytes(b"half")
    assert remove_orphans(tmp_path) == sorted(orphans)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    (tmp_path / "model").mkdir()
    below = tmp_path / "model" / f".model.safetensors.{ended_process}.part"
    below.write_bytes(b"half")
    with FolderLock(tmp_path):
        assert not below.exists()


def test_the_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content is synced, then the file renamed, then the folder synced."""
    done = []
    sync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        done.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        sync(handle)

    def replaced(path: Path, target: Path) -> Path:
        done.append(f"{path.name.rsplit('.', 2)[0]} -> {target.name}")
        return replace(path, target)

    monkeypatch.setattr(_files.os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    checkpoint.save(tmp_path / LAST, {"a": 1}, tmp_path / PREVIOUS)
    assert done == ["file", ".last.pt -> last.pt", "folder"]
    done.clear()
    checkpoint.save(tmp_path / LAST, {"a": 2}, tmp_path / PREVIOUS)
    assert done == ["file", ".previous.pt -> previous.pt", ".last.pt -> last.pt", "folder"]
    assert checkpoint.load(tmp_path / LAST)["a"] == 2
    assert checkpoint.load(tmp_path / PREVIOUS)["a"] == 1


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("step", ["fsync", "keep", "replace"])
def test_killed_between_any_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, links: bool
) -> None:
    """One of the two checkpoints is whole, whatever the moment, with and without hard links."""
    last, previous = tmp_path / LAST, tmp_path / PREVIOUS
    for number in (1, 2):
        checkpoint.save(last, {"a": number}, previous)

    def no_links(*_: object) -> None:
        raise OSError("no links here")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    if step == "fsync":
        monkeypatch.setattr(_files.os, "fsync", killed)
    elif step == "keep":
        monkeypatch.setattr(_files, "_keep", killed)
    else:
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda a, b: killed() if b == last else replace(a, b))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(last, {"a": 3}, previous)
    monkeypatch.undo()
    whole = [path for path in (last, previous) if path.exists()]
    assert {checkpoint.load(path)["a"] for path in whole} <= {1, 2}
    assert max(checkpoint.load(path)["a"] for path in whole) == 2


def limited(size: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """Another process that writes a checkpoint of 4 MB where files may have `size` bytes."""
    program = """
import resource, sys, torch
from pathlib import Path
from fastseg.engine import checkpoint
size, folder = int(sys.argv[1]), Path(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    checkpoint.save(folder / "last.pt", {"a": torch.zeros(1_000_000)}, folder / "previous.pt")
except OSError as error:
    print(error.strerror)
"""
    command = [sys.executable, "-c", program, str(size), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("size", [0, 100, 3_000_000])
def test_no_room_for_a_checkpoint(tmp_path: Path, size: int) -> None:
    """One reason, the checkpoint from before, and nothing half-written."""
    checkpoint.save(tmp_path / LAST, {"a": 1})
    done = limited(size, tmp_path)
    assert (done.stdout, done.returncode) == ("File too large\n", 0), done.stderr
    assert done.stderr == ""
    assert [path.name for path in tmp_path.iterdir()] == [LAST]
    assert checkpoint.load(tmp_path / LAST)["a"] == 1


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save makes a RuntimeError of it, which says nothing of disks."""
    real = io.FileIO
    monkeypatch.setattr(_files.io, "FileIO", lambda path, mode: real("/dev/full", mode))
    with pytest.raises(OSError, match="No space left on device"):
        with written_whole(tmp_path / "a.pt") as file:
            torch.save({"a": torch.zeros(1_000_000)}, file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "missing", "other file"])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    dataset: Path, tmp_path: Path, damage: str
) -> None:
    whole = make_trainer(dataset, tmp_path / "whole", dtype=torch.float32)
    whole.run()
    out = tmp_path / "out"
    trainer = make_trainer(dataset, out, dtype=torch.float32, validate_every=3)
    for _ in range(2):
        trainer.save()
    last = out / LAST
    data = bytearray(last.read_bytes())
    if damage == "missing":
        last.unlink()
    elif damage == "flipped":
        data[len(data) // 2] ^= 255
        last.write_bytes(data)
    else:
        last.write_bytes({"cut": data[:5000], "empty": b"", "other file": b"hello"}[damage])
    trainer = make_trainer(dataset, out, dtype=torch.float32)
    problem = trainer.resume_latest()
    assert problem.startswith(f"{last}: ") and len(problem.splitlines()) == 1
    trainer.run()
    a, b = whole.model.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    (out / PREVIOUS).write_bytes(b"no")
    last.write_bytes(b"no")
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt: not .*previous\.pt: not"):
        trainer.resume_latest()
    (out / PREVIOUS).unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"last\.pt: not"):
        trainer.resume_latest()


WRONG: list[tuple[str, Any, str]] = [
    ("iteration", -1, "iteration is -1, expected a whole number of at least 0"),
    ("iteration", True, "iteration is true, expected"),
    ("iteration", 10**6, "1000000 iterations are done, but the run is to have 8"),
    ("iteration", None, "iteration is null"),
    ("config", {"iterations": 8, "lr": "0.01"}, "lr is '0.01', expected a number"),
    ("config", {"iterations": 8, "crop": [1, 2, 3]}, "crop is a list of 3, expected a list of 2"),
    ("config", {"iterations": 8, "lr": math.inf}, "config.lr is inf"),
    ("config", {"iterations": 8, "colour": 1}, "colour is not known, allowed are iterations"),
    ("config", {}, "iterations"),
    ("history", {"losses": [None], "validations": []}, "history.losses[0] is null"),
    ("history", {"losses": []}, "history.validations is missing"),
    ("history", {"losses": [], "validations": [{"iteration": 1}]}, "[0].mIoU is missing"),
    ("history", {"losses": [], "validations": [{"iteration": 1, "mIoU": "x"}]}, "mIoU is 'x'"),
    ("history", [], "history is a list of 0, expected an object"),
    ("averaged", {"a": 3}, "averaged.a is 3, expected a tensor"),
    ("averaged", None, "not written by this version"),
    ("weights", {}, "Missing key(s)"),
    ("optimizer", {"state": {0: {"step": 3}}}, "optimizer has an object of 1 entries"),
    ("optimizer", {"state": {99: {}}}, "a state for the parameter 99"),
    ("optimizer", {"state": {"a": {}}}, "a state for the parameter 'a'"),
    ("optimizer", {"state": []}, "optimizer.state is a list of 0"),
    ("description", {"architecture": "tiny"}, "description.encoder is missing"),
    ("description", None, "description is null"),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value", "words"), WRONG, ids=lambda x: str(x)[:30])
def test_entries_of_a_checkpoint_that_do_not_fit(
    dataset: Path, tmp_path: Path, field: str, value: Any, words: str
) -> None:
    trainer = make_trainer(dataset, tmp_path)
    trainer.save()
    state = checkpoint.load(tmp_path / LAST)
    checkpoint.save(tmp_path / LAST, {**state, field: value})
    with pytest.raises(checkpoint.CheckpointError) as caught:
        trainer.resume_latest()
    message = str(caught.value)
    assert words in message and message.startswith(str(tmp_path / LAST))
    assert len(message.splitlines()) == 1
    checkpoint.save(tmp_path / LAST, {k: v for k, v in state.items() if k != field})
    with pytest.raises(checkpoint.CheckpointError, match=f"{field} is missing"):
        trainer.resume_latest()


def test_states_of_the_optimizer_that_fit_no_parameter(dataset: Path, tmp_path: Path) -> None:
    trainer = make_trainer(dataset, tmp_path)
    trainer.run()
    state = checkpoint.load(tmp_path / LAST)
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(5)
    checkpoint.save(tmp_path / LAST, state)
    with pytest.raises(checkpoint.CheckpointError, match=r"exp_avg of the parameter 0 does not"):
        make_trainer(dataset, tmp_path).resume_latest()


def test_a_run_can_be_made_longer(dataset: Path, tmp_path: Path) -> None:
    """The steps to come have the learning rates of a run of the new length."""
    make_trainer(dataset, tmp_path).run()
    longer = dataclasses.replace(CONFIG, iterations=11)
    trainer = make_trainer(dataset, tmp_path, config=longer)
    assert trainer.resume_latest() == ""
    rates = []

    def step(iteration: int, loss: float, lr: float) -> None:
        rates.append(trainer.optimizer.param_groups[0]["lr"])

    trainer.reporter.step = step  # type: ignore[method-assign]
    assert trainer.run().iteration == 11
    expected = [CONFIG.lr * (1 - i / 11) ** CONFIG.power for i in (8, 9, 10)]
    assert rates == pytest.approx(expected)
    shorter = make_trainer(dataset, tmp_path, config=dataclasses.replace(CONFIG, iterations=10))
    with pytest.raises(
        checkpoint.CheckpointError, match="11 iterations are done, but the run is to have 10"
    ):
        shorter.resume_latest()


def test_fields_that_older_versions_did_not_write_have_their_defaults(
    dataset: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(dataset, tmp_path)
    trainer.save()
    state = checkpoint.load(tmp_path / LAST)
    for name in ("label_smoothing", "clip", "init"):
        del state["config"][name]
    checkpoint.save(tmp_path / LAST, state)
    assert make_trainer(dataset, tmp_path).resume_latest() == ""
    other = make_trainer(dataset, tmp_path, config=dataclasses.replace(CONFIG, clip=2.0))
    with pytest.raises(checkpoint.CheckpointError, match=r"clip is 2\.0, was 0\.0"):
        other.resume_latest()


@dataclasses.dataclass(frozen=True)
class LaterConfig(TrainConfig):
    """A version with one more field."""

    later: str = "ce"


def test_a_new_field_of_the_configuration_needs_nothing_else() -> None:
    """A checkpoint without it is one with its default; other values are other runs."""
    stored = LaterConfig.from_json(json.loads(json.dumps(CONFIG.as_json())))
    assert stored == LaterConfig(**dataclasses.asdict(CONFIG))
    assert LaterConfig(**dataclasses.asdict(CONFIG), later="ce").differences(stored) == []
    other = LaterConfig(**dataclasses.asdict(CONFIG), later="ce+dice")
    assert other.differences(stored) == ["later is ce+dice, was ce"]


def test_options_are_recorded(tmp_path: Path) -> None:
    assert read_options(tmp_path) is None
    options = {"dataset": "/data", "crop": [1, 2], "init": None, "lr": 0.5}
    write_options(tmp_path, options)
    assert read_options(tmp_path) == options
    path = tmp_path / "run.json"
    for content, words in (
        ("[]", "expected an object"), ("{}", "format is missing"), ("{", "damaged JSON"),
        ('{"format": "fastseg run 1", "options": 3}', "options is 3"),
        ('{"format": "fastseg run 9", "options": {}}', "format is 'fastseg run 9'"),
    ):  # fmt: skip
        path.write_text(content)
        with pytest.raises(ValueError, match=f"run\\.json: .*{words}"):
            read_options(tmp_path)


def test_the_curve_of_losses_that_are_not_finite(tmp_path: Path) -> None:
    """On a GPU a loss in the middle may be infinite before the last of its kind is looked at."""
    losses = history.History([1.0, math.inf, math.nan, 0.5], [{"iteration": 2, "mIoU": None}])
    history.write(tmp_path, losses, CONFIG, DESCRIPTION)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["loss"]["mean"] == [1.0, None, None, 0.5]
    assert (tmp_path / "curve.png").exists()
