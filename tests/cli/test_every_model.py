"""Every architecture goes through the commands: trained, evaluated, segmented with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_data import make_dataset
from typer.testing import CliRunner

from fastseg.cli.app import app
from fastseg.models.architectures import ARCHITECTURES, takes_encoder

SMALL = (
    "--working-size", 64, "--crop", 64, 64, "--batch-size", 2, "--warmup", 1, "--iterations", 1,
)  # fmt: skip
ENCODER = ("--encoder", "resnet18")
# Of networks that would be slow at their usual widths.
NARROW = {
    "fcnvgg16": ("widths=[4,4,4,4,4]", "hidden=8"),
    "plainunet": ("base_channels=4", "head_channels=4"),
    "u2net": (f"channels={[8] * 11}", f"hidden={[4] * 11}"),
}


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 2, "val": 2})


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_trained_evaluated_and_used(name: str, dataset: Path, tmp_path: Path) -> None:
    options = [word for o in NARROW.get(name, ()) for word in ("--model-option", o)]
    options += ENCODER if takes_encoder(name) else ()
    run("train", dataset, "--out", tmp_path / "run", "--model", name, *SMALL, *options)
    weights = tmp_path / "run" / "best.pt"
    assert "mIoU" in run("eval", dataset, "--weights", weights)
    images = sorted((dataset / "images" / "val").iterdir())
    run("segment", *images, "--weights", weights, "--out", tmp_path / "labels")
    assert len(list((tmp_path / "labels").iterdir())) >= len(images)


def test_an_encoder_for_a_model_of_its_own_layers(dataset: Path, tmp_path: Path) -> None:
    arguments = ["train", dataset, "--out", tmp_path / "run", "--model", "u2net", *SMALL, *ENCODER]
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})
    assert result.exit_code == 1
    assert "--encoder is resnet18, but --model u2net has layers of its own" in result.output


def test_a_run_of_a_model_of_its_own_layers_goes_on(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [word for o in NARROW["u2net"] for word in ("--model-option", o)]
    run("train", dataset, "--out", out, "--model", "u2net", *SMALL, *options)
    run("train", "--resume", "--out", out, "--iterations", 2)
    assert "u2net" in run("models")
    rows = json.loads(run("models", "--json"))["models"]
    assert {"u2net", "fcnvgg16", "plainunet"} == {r["model"] for r in rows if not r["encoder"]}
