"""Running out of memory costs one image and one line, whoever says so."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastseg._memory import is_out_of_memory, memory_errors
from fastseg.cli.app import app
from fastseg.models import SegmentationModel

ERRORS = {
    "torch on a CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 97200000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to ..."),
    "torch on a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "oneDNN": RuntimeError("could not create a memory object"),
    "numpy": numpy._core._exceptions._ArrayMemoryError((10**6, 10**6), numpy.dtype("float64")),
    "Python": MemoryError(),
    "C++": MemoryError("std::bad_alloc"),
    "the system": OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    "threads": RuntimeError("can't start new thread"),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_every_kind_is_a_memory_error(kind: str) -> None:
    assert is_out_of_memory(ERRORS[kind])
    with pytest.raises(MemoryError), memory_errors():
        raise ERRORS[kind]


@pytest.mark.parametrize("error", [RuntimeError("other"), OSError(errno.ENOSPC, "full"), KeyError])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(error if isinstance(error, type) else type(error)), memory_errors():
        raise error


@pytest.mark.parametrize("kind", ERRORS)
def test_segment_goes_on_with_the_next_image(
    kind: str, photo: numpy.ndarray, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "ab":
        Image.fromarray(photo).save(tmp_path / f"{name}.png")
    right, calls = SegmentationModel.segment, []

    def segment(*arguments: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise ERRORS[kind]
        return right(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(SegmentationModel, "segment", segment)
    images = [str(tmp_path / f"{name}.png") for name in "ab"]
    result = CliRunner().invoke(
        app, ["segment", *images, "-w", str(weights), "-o", str(tmp_path / "out"), "--json"]
    )
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "a.png: out of memory (" in line
    (entry,) = json.loads(result.stdout)["images"]
    assert entry["image"] == images[1]


@pytest.mark.parametrize("command", ["eval", "train"])
def test_eval_and_train_say_it_in_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_data import make_dataset

    from fastseg.models import default_model

    data = make_dataset(tmp_path / "data", {"train": 2, "val": 1})
    model = default_model()

    def fails(*_: object, **__: object) -> None:
        raise ERRORS["torch on a CPU"]

    if command == "eval":
        monkeypatch.setattr(type(model), "coarse_logits", fails)
    else:
        monkeypatch.setattr("fastseg.engine.trainer.Trainer.run", fails)
    options = ("-o", str(tmp_path / "out"), "--iterations", "1") if command == "train" else ()
    result = CliRunner().invoke(app, [command, str(data), *options])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "out of memory (" in errors[0]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's here")
def test_a_working_size_beyond_memory_under_a_limit(photo: numpy.ndarray, tmp_path: Path) -> None:
    """The real thing: an allocation that the system refuses, then the next image."""
    Image.fromarray(numpy.zeros((4000, 6000), "uint8")).save(tmp_path / "large.png")
    Image.fromarray(photo).save(tmp_path / "small.png")
    program = (
        "import resource, sys, torch, fastseg.cli.app as a; torch.set_num_threads(1); "
        "limit = 4 * 2**30; resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        "a.app(['segment', 'large.png', 'small.png', '--working-size', '9000'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert all(line.startswith("error: ") for line in lines), done.stderr
    assert "large.png: out of memory" in lines[0] or "small.png: out of memory" in lines[-1]


def test_a_working_size_beyond_the_limit_is_refused(photo_file: Path, tmp_path: Path) -> None:
    command = ["segment", str(photo_file), "-o", str(tmp_path), "--working-size", "1000000000"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "allowed are 89478485" in line
    assert "--max-pixels" in line
