"""Every architecture goes through the commands: trained, evaluated, segmented with."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_data import make_dataset
from typer.testing import CliRunner

from fastseg.cli.app import app
from fastseg.models.architectures import ARCHITECTURES

SMALL = (
    "--working-size", 64, "--crop", 64, 64, "--batch-size", 2, "--warmup", 1, "--iterations", 1,
    "--encoder", "resnet18",
)  # fmt: skip


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 2, "val": 2})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trained_evaluated_and_used(name: str, dataset: Path, tmp_path: Path) -> None:
    run("train", dataset, "--out", tmp_path / "run", "--model", name, *SMALL)
    weights = tmp_path / "run" / "best.pt"
    assert "mIoU" in run("eval", dataset, "--weights", weights)
    images = sorted((dataset / "images" / "val").iterdir())
    run("segment", *images, "--weights", weights, "--out", tmp_path / "labels")
    assert len(list((tmp_path / "labels").iterdir())) >= len(images)
