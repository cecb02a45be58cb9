"""`fastseg train --resume`: alone, longer, after kills, and with what contradicts the run."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_data import make_dataset
from typer.testing import CliRunner, Result

from fastseg.cli.app import app
from fastseg.cli.resuming import _OF_THE_START, ResumableCommand
from fastseg.engine.run_folder import FolderLock

SMALL = (
    "--working-size", 64, "--crop", 48, 48, "--batch-size", 2, "--warmup", 1, "--ema", 0.5,
    "--validate-every", 2, "--model", "pspnet", "--model-option", "psp_out_channels=16",
)  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})


def error_of(result: Result) -> str:
    """The last line of stderr, which is the only error."""
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert [line.startswith("error: ") for line in lines].count(True) == 1, lines
    return lines[-1].removeprefix("error: ")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 4, "val": 2})


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "trained"
    result = run("train", dataset, "-o", out, *SMALL, "--iterations", 4, "--lr", 0.002)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def state_of(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def test_alone_it_continues_the_run_with_its_options(
    copy: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the data set, from another folder, and with options that say the same."""
    monkeypatch.chdir("/")
    shutil.copy(copy / "previous.pt", copy / "last.pt")
    result = run("train", "--resume", "-o", copy)
    assert result.exit_code == 0, result.output
    assert "continuing after iteration" in result.stderr
    state = state_of(copy / "last.pt")
    assert state["iteration"] == 4
    assert (state["config"]["lr"], state["config"]["crop"]) == (0.002, [48, 48])
    same = run("train", dataset, "--resume", "-o", copy, "--crop", 48, 48, "--model", "pspnet")
    assert same.exit_code == 0, same.output
    monkeypatch.chdir(dataset.parent)
    relative = run("train", dataset.name, "--out", copy, "--resume", "--threads", 1)
    assert relative.exit_code == 0, relative.output


@pytest.mark.parametrize("option", [("--iterations", 6), ("--epochs", 3)])
def test_a_run_can_be_made_longer(copy: Path, option: tuple[object, ...]) -> None:
    result = run("train", "--resume", "-o", copy, *option)
    assert result.exit_code == 0, result.output
    assert "the run has 6 iterations in place of 4, and from here on" in result.stderr
    state = state_of(copy / "last.pt")
    assert (state["iteration"], state["config"]["iterations"]) == (6, 6)
    # The new length is the run's now.
    again = run("train", "--resume", "-o", copy)
    assert again.exit_code == 0 and "continuing after iteration 6\n" in again.stderr
    shorter = run("train", "--resume", "-o", copy, "--iterations", 5)
    assert "6 iterations are done, but the run is to have 5" in error_of(shorter)


def test_what_contradicts_the_run_is_named(copy: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in copy.glob("*.*")}
    message = error_of(
        run("train", tmp_path, "--resume", "-o", copy, "--lr", 0.5, "--crop", 40, 48, "-m", "x")
    )
    for words in (
        f"DATASET is {tmp_path}, was ", "--lr is 0.5, was 0.002", "--crop is 40 48, was 48 48",
        "--model is x, was pspnet", "leave these out",
    ):  # fmt: skip
        assert words in message
    message = error_of(run("train", "--resume", "-o", copy, "--model-option", "a=1"))
    assert "--model-option is a=1, was psp_out_channels=16" in message
    message = error_of(run("train", "--resume", "-o", copy, "--iterations", 2))
    assert "4 iterations are done, but the run is to have 2" in message
    message = error_of(run("train", "--resume", "-o", copy, "--iterations", 9, "--epochs", 2))
    assert "--epochs or --iterations" in message
    assert {path.name: path.read_bytes() for path in copy.glob("*.*")} == before


def test_folders_that_hold_no_run(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert f"{out} holds no run to continue" in error_of(run("train", "--resume", "-o", out))
    assert not out.exists()
    result = run("train", dataset, "--resume", "-o", out, *SMALL, "--iterations", 2)
    assert result.exit_code == 0, result.output  # nothing to continue: it begins
    assert "last.pt exists" in error_of(run("train", dataset, "-o", out, *SMALL))
    missing = run("train")
    assert missing.exit_code == 2 and "DATASET" in missing.stderr.upper()


def test_a_run_of_a_version_that_recorded_nothing(copy: Path, dataset: Path) -> None:
    """Its configuration is in the checkpoint; only the data set has to be given."""
    (copy / "run.json").unlink()
    assert "did not record its data set" in error_of(run("train", "--resume", "-o", copy))
    options = ("--model-option", "psp_out_channels=16", "--iterations", 6)
    result = run("train", dataset, "--resume", "-o", copy, *options)
    assert result.exit_code == 0, result.output
    assert state_of(copy / "last.pt")["config"]["lr"] == 0.002


def test_a_damaged_record(copy: Path) -> None:
    for content, words in (
        ("{", "run.json: truncated or damaged JSON"),
        ('{"format": "fastseg run 1", "options": 5}', "run.json: options is 5"),
    ):
        (copy / "run.json").write_text(content)
        assert words in error_of(run("train", "--resume", "-o", copy))
    record = {"format": "fastseg run 1", "options": {"dataset": "/none", "lr": {"a": 1}}}
    (copy / "run.json").write_text(json.dumps(record))
    result = run("train", "--resume", "-o", copy)
    assert result.exit_code != 0 and isinstance(result.exception, SystemExit), result.output


def test_the_checkpoint_before_is_taken_where_the_last_is_damaged(copy: Path) -> None:
    last = copy / "last.pt"
    expected = state_of(last)
    last.write_bytes(last.read_bytes()[:20_000])
    result = run("train", "--resume", "-o", copy)
    assert result.exit_code == 0, result.output
    assert "last.pt: truncated, damaged" in result.stderr
    assert "continuing from previous.pt, the one before" in result.stderr
    state = state_of(last)
    assert all(torch.equal(state["weights"][k], v) for k, v in expected["weights"].items())
    last.write_bytes(b"no")
    (copy / "previous.pt").write_bytes(b"no")
    message = error_of(run("train", "--resume", "-o", copy))
    assert "last.pt: not a checkpoint" in message and "previous.pt: not a checkpoint" in message


def test_two_trainings_in_one_folder(copy: Path, dataset: Path) -> None:
    with FolderLock(copy):
        message = error_of(run("train", "--resume", "-o", copy))
        assert f"another training is writing to it (process {os.getpid()}" in message
        assert "another training" in error_of(run("train", dataset, "-o", copy, *SMALL))
    assert run("train", "--resume", "-o", copy).exit_code == 0


def test_every_option_of_train_is_of_the_start_or_recorded(trained: Path) -> None:
    """An option that is added later is recorded without a word about it here."""
    import typer.main

    group = typer.main.get_command(app)
    command = group.commands["train"]  # type: ignore[attr-defined]
    assert isinstance(command, ResumableCommand)
    names = {p.name for p in command.params if p.name not in ("help", "h")}
    recorded = json.loads((trained / "run.json").read_text())["options"]
    assert set(recorded) == names - _OF_THE_START
    assert _OF_THE_START <= names


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from fastseg.__main__ import main
sys.argv[1:2] = []
main()
"""


def test_a_disk_that_is_full(copy: Path) -> None:
    """One line; the checkpoints that were there stay."""
    before = {name: (copy / name).read_bytes() for name in ("last.pt", "previous.pt", "best.pt")}
    command = [sys.executable, "-c", LIMITED, 100_000, "train", "--resume", "-o", copy]
    done = subprocess.run(
        [str(part) for part in (*command, "--iterations", 8)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert lines[-1] == f"error: {copy}: File too large"
    assert "Traceback" not in done.stderr
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert not list(copy.glob(".*"))
    assert run("train", "--resume", "-o", copy, "--iterations", 8).exit_code == 0


@pytest.mark.slow
def test_killed_at_any_moment_the_run_goes_on_to_the_same_bits(
    dataset: Path, tmp_path: Path
) -> None:
    """kill -9 again and again, at random moments; --resume alone each time."""
    options = (*SMALL, "--iterations", 16, "--threads", 1)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run("train", dataset, "-o", whole, *options).exit_code == 0
    first = [sys.executable, "-m", "fastseg", "train", dataset, "-o", cut, *options]
    later = [sys.executable, "-m", "fastseg", "train", "--resume", "-o", cut, "--threads", "1"]
    rng = random.Random(0)
    kills = resumed = 0
    for _ in range(6):
        command = later if (cut / "run.json").exists() else [*first, "--resume"]
        process = subprocess.Popen(
            [str(part) for part in command], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        seen = []
        for line in process.stderr:  # it trains: it is killed within the next moments
            seen.append(line)
            resumed += "continuing after iteration" in line
            if line.startswith("iteration") or not kills:  # once before it trains
                break
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        rest = process.communicate()[1]
        assert process.returncode in (0, -9), "".join(seen) + rest
        if process.returncode == 0:
            break
        kills += 1
    result = run("train", "--resume", "-o", cut, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert kills >= 3
    assert resumed
    a, b = (state_of(folder / "last.pt") for folder in (whole, cut))
    for part in ("weights", "averaged"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    assert a["history"] == b["history"]
    assert not list(cut.rglob(".*"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", "a"), ("dataset", 5), ("crop", [1]), ("iterations", 1.5), ("bf16", "perhaps")],
)
def test_an_option_recorded_wrong_is_named_with_its_file(
    copy: Path, field: str, value: object
) -> None:
    record = json.loads((copy / "run.json").read_text())
    record["options"][field] = value
    (copy / "run.json").write_text(json.dumps(record))
    text = error_of(run("train", "--resume", "-o", copy))
    assert text.startswith(f"{copy / 'run.json'}: options.{field} is ")


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew_over_its_best(
    copy: Path, dataset: Path
) -> None:
    (copy / "last.pt").unlink()
    (copy / "previous.pt").unlink()
    best = (copy / "best.pt").read_bytes()
    text = error_of(run("train", "--resume", "-o", copy))
    assert "last.pt and previous.pt of the run" in text and f"--init {copy / 'best.pt'}" in text
    text = error_of(run("train", dataset, "-o", copy, *SMALL, "--iterations", 2))
    assert text == f"{copy / 'best.pt'} exists: choose another --out"
    assert (copy / "best.pt").read_bytes() == best


def test_killed_before_its_first_checkpoint_a_run_begins_again(copy: Path) -> None:
    for path in copy.iterdir():
        if path.name not in ("run.json", "best.pt"):  # the best is written before the last
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    result = run("train", "--resume", "-o", copy, "--iterations", 2)
    assert result.exit_code == 0, result.output
    assert f"{copy} has no checkpoint yet" in result.stderr
