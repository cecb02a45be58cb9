"""`fastseg train --model segformer --encoder mit_b0`, and every command on what it made."""

from __future__ import annotations

import json
from pathlib import Path

import tiny_data
from typer.testing import CliRunner, Result

from fastseg.cli.app import app

OPTIONS = {"depths": [1, 1, 1, 1], "widths": [8, 16, 40, 64]}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def test_train_evaluate_segment_and_go_on(tmp_path: Path) -> None:
    data = tiny_data.make_dataset(tmp_path / "data", {"train": 4, "val": 2})
    out = tmp_path / "out"
    given = ("--model", "segformer", "--encoder", "mit_b0", "--working-size", 64, "--crop", 48, 64)
    options = (
        "--model-option",
        f"encoder_options={json.dumps(OPTIONS)}",
        "--model-option",
        "decoder_segmentation_channels=16",
    )
    run("train", data, *given, *options, "--iterations", 2, "--batch-size", 2, "-o", out)
    run("train", "--resume", "-o", out, "--iterations", 3)
    scores = json.loads(run("eval", data, "-w", out / "best.pt", "--json").stdout)
    assert 0 <= scores["mIoU"] <= 1, scores
    (image,) = list((data / "images" / "val").glob("0.png"))
    found = run("segment", image, "-w", out / "best.pt", "-o", tmp_path / "labels", "--json")
    (entry,) = json.loads(found.stdout)["images"]
    assert sum(c["pixels"] for c in entry["classes"]) == 48 * 64
