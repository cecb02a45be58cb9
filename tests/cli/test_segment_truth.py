"""`fastseg segment --truth`: scores of each image and of all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fastseg.cli.app import app
from fastseg.models import load_checkpoint

SIZE = 65


def run(command: str, *arguments: object) -> Result:
    words = [command, *(str(a) for a in arguments), "--working-size", str(SIZE)]
    result = CliRunner().invoke(app, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def data_set(weights: Path, tmp_path: Path) -> Path:
    """Three images and their labels: the model's own, shifted ones, and half of them void."""
    model = load_checkpoint(weights)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for seed, name in enumerate("abc"):
        rng = numpy.random.default_rng(seed)
        photo = rng.integers(0, 256, (40, 56, 3), dtype=numpy.uint8)
        label = model.segment(photo, SIZE).numpy()
        if name == "b":
            label = numpy.roll(label, 7, 1)
        if name == "c":
            label = label.copy()
            label[:20] = 255
        Image.fromarray(photo).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(label).save(tmp_path / "data" / "labels" / f"{name}.png")
    return tmp_path / "data"


def test_scores_are_those_of_eval(data_set: Path, weights: Path, tmp_path: Path) -> None:
    evaluated = run("eval", data_set, "-w", weights, "--json")
    assert evaluated.exit_code == 0, evaluated.stderr
    expected = json.loads(evaluated.stdout)
    result = run("segment", data_set / "images", "-w", weights, "-o", tmp_path / "out",
                 "--truth", data_set / "labels", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    for key in ("mIoU", "mAcc", "aAcc"):
        assert content["scores"][key] == pytest.approx(expected[key], abs=1e-3), key
    # Of batches and of fused layers the sums are rounded in another way: a pixel may differ.
    for key in ("confusion", "void"):
        found, wanted = (numpy.array(c[key]) for c in (content["scores"], expected))
        assert found.sum() == wanted.sum()
        assert abs(found - wanted).sum() <= 6
    by_name = {Path(entry["image"]).stem: entry["scores"] for entry in content["images"]}
    assert by_name["a"]["aAcc"] > 0.999
    assert by_name["b"]["aAcc"] < 1
    assert by_name["c"]["aAcc"] > 0.999
    assert result.stderr.count("\n") == 1
    assert "3 label maps" in result.stderr


def test_scores_are_printed(data_set: Path, weights: Path, tmp_path: Path) -> None:
    result = run("segment", data_set / "images" / "a.png", "-w", weights, "-o", tmp_path / "out",
                 "--truth", data_set / "labels" / "a.png")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "mIoU 100.00 %, mAcc 100.00 %, aAcc 100.00 %" in result.stdout
    assert "IoU" in result.stdout


def test_label_maps_have_other_suffixes_and_endings(
    data_set: Path, weights: Path, tmp_path: Path
) -> None:
    labels = data_set / "labels"
    (labels / "a.png").rename(labels / "a_mask.png")
    (labels / "b.png").unlink()
    result = run("segment", data_set / "images", "-w", weights, "-o", tmp_path / "out",
                 "--truth", labels, "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "1 of 3 images have no label map there" in result.stderr
    scored = ["scores" in entry for entry in json.loads(result.stdout)["images"]]
    assert scored == [True, False, True]


def test_label_maps_beside_the_images_are_no_images(
    data_set: Path, weights: Path, tmp_path: Path
) -> None:
    images = data_set / "images"
    for name in "ab":
        (data_set / "labels" / f"{name}.png").rename(images / f"{name}_mask.png")
    (images / "c.png").unlink()
    result = run("segment", images, "-w", weights, "-o", tmp_path / "out", "--truth", images,
                 "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    entries = json.loads(result.stdout)["images"]
    assert [Path(entry["image"]).name for entry in entries] == ["a.png", "b.png"]
    assert all("scores" in entry for entry in entries)


def test_wrong_truth_is_one_line(data_set: Path, weights: Path, tmp_path: Path) -> None:
    images, labels = data_set / "images", data_set / "labels"
    (tmp_path / "empty").mkdir()
    Image.fromarray(numpy.full((40, 56), 77, "uint8")).save(tmp_path / "unknown.png")
    cases = (
        (images, tmp_path / "nowhere", "no such file or folder"),
        (images, labels / "a.png", "is one label map, expected a folder"),
        (images, tmp_path / "empty", "no label map with the name of an image"),
        (images / "a.png", tmp_path / "unknown.png", "77"),
        (images / "a.png", weights, "not an image"),
    )
    for given, truth, words in cases:
        result = run("segment", given, "-w", weights, "-o", tmp_path / "out", "--truth", truth)
        assert result.exit_code == 1
        errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, result.stderr
        assert words in errors[0]


def test_truth_is_not_written_over(data_set: Path, weights: Path, tmp_path: Path) -> None:
    label = data_set / "images" / "a_labels.png"
    (data_set / "labels" / "a.png").rename(label)
    before = label.read_bytes()
    result = run("segment", data_set / "images" / "a.png", "-w", weights, "-o", label.parent,
                 "--truth", label)  # fmt: skip
    assert result.exit_code == 1
    assert "a_labels.png: is read by this command" in result.stderr
    assert label.read_bytes() == before


def test_truth_of_a_turned_photograph(data_set: Path, weights: Path, tmp_path: Path) -> None:
    """Drawn on the stored pixels, a label map is turned as its photograph is."""
    photo = numpy.asarray(Image.open(data_set / "images" / "a.png"))
    label = numpy.asarray(Image.open(data_set / "labels" / "a.png"))
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(photo[::-1, ::-1].copy()).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(label[::-1, ::-1].copy()).save(tmp_path / "turned_label.png")
    result = run("segment", tmp_path / "turned.png", "-w", weights, "-o", tmp_path / "out",
                 "--truth", tmp_path / "turned_label.png", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["scores"]["aAcc"] == 1
