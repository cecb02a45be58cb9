"""Images of other bands than RGB, from training to segmentation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from fastseg.classes import numbered_classes
from fastseg.cli.app import app
from fastseg.crf import DenseCRF
from fastseg.data import read_image
from fastseg.models import PSPNet, load_checkpoint
from fastseg.models.base import of_bands

SIZE = "64"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write_image(path: Path, bands: int, seed: int) -> numpy.ndarray:
    """12-bit values [48, 64, bands] in a 16-bit file."""
    x = numpy.random.default_rng(seed).integers(0, 4000, (48, 64, bands)).astype("uint16")
    if path.suffix == ".npy":
        numpy.save(path, x)
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, x, photometric="minisblack", planarconfig="contig")
    return x


@pytest.mark.parametrize(("bands", "suffix"), [(4, ".tif"), (5, ".npy"), (2, ".tif"), (1, ".png")])
@pytest.mark.parametrize("crf", [False, True])
def test_segment_takes_what_the_model_takes(
    tmp_path: Path, bands: int, suffix: str, crf: bool
) -> None:
    torch.manual_seed(0)
    model = PSPNet("mobilenet_v2", encoder_weights=None, in_channels=bands, classes=3).eval()
    assert model.in_channels == bands
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / f"x{suffix}"
    if suffix == ".png":
        grey = numpy.random.default_rng(0).integers(0, 256, (48, 64)).astype("uint8")
        Image.fromarray(grey).save(path)
    else:
        write_image(path, bands, 0)
    options = ("--crf", "pydensecrf") if crf else ()
    result = run("segment", tmp_path / "in", "-w", tmp_path / "model", "-o", tmp_path / "out",
                 "--working-size", SIZE, "--json", *options)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(result.stdout)["images"]
    with Image.open(entry["labels"]) as image:
        labels = numpy.asarray(image)
    layer = DenseCRF.preset("pydensecrf", 3) if crf else None
    expected = model.segment(read_image(path, bands), int(SIZE), layer).numpy()
    assert (labels == expected).mean() > 0.99
    with Image.open(entry["overlay"]) as image:
        assert image.size[0] >= 64


def test_segment_of_other_bands_is_one_line(photo_file: Path, tmp_path: Path) -> None:
    PSPNet("mobilenet_v2", encoder_weights=None, in_channels=4).save_pretrained(tmp_path / "m")
    result = run("segment", photo_file, "-w", tmp_path / "m", "-o", tmp_path / "out")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "photo.png: has 3 bands, expected 4 as the model takes" in line


@pytest.mark.parametrize(("bands", "suffix"), [(4, ".tif"), (6, ".npy")])
def test_training_to_segmentation(tmp_path: Path, bands: int, suffix: str) -> None:
    for split, count in (("train", 2), ("val", 1)):
        for folder in ("images", "labels"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        for i in range(count):
            x = write_image(tmp_path / "data" / "images" / split / f"{i}{suffix}", bands, i)
            label = (x[..., bands - 1] > 2000).astype("uint8")
            Image.fromarray(label).save(tmp_path / "data" / "labels" / split / f"{i}.png")
    result = run("train", tmp_path / "data", "-o", tmp_path / "run", "-m", "pspnet",
                 "--iterations", 2, "--batch-size", 2, "--crop", 48, 64,
                 "--working-size", SIZE, "--validate-every", 1)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert f"{bands} bands" in result.stderr
    weights = tmp_path / "run" / "best.pt"
    model = load_checkpoint(weights)
    assert (model.in_channels, len(model.mean), len(model.std)) == (bands, bands, bands)
    images = tmp_path / "data" / "images" / "val"
    result = run("segment", images, "-w", weights, "-o", tmp_path / "out", "--truth",
                 tmp_path / "data" / "labels" / "val", "--json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["scores"]["mIoU"] is not None
    result = run("eval", tmp_path / "data", "-w", weights, "--json")
    assert result.exit_code == 0, result.stderr


def test_crf_shows_the_first_bands(tmp_path: Path) -> None:
    write_image(tmp_path / "x.tif", 5, 0)
    labels = numpy.arange(48 * 64).reshape(48, 64) // 1000
    Image.fromarray(labels.astype("uint8")).save(tmp_path / "drawn.png")
    result = run("crf", tmp_path / "x.tif", tmp_path / "drawn.png", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr


def test_statistics_of_bands() -> None:
    rgb = (0.2, 0.4, 0.6)
    assert of_bands("mean", rgb, 3) == [0.2, 0.4, 0.6]
    assert of_bands("mean", rgb, 5) == pytest.approx([0.2, 0.4, 0.6, 0.4, 0.4])
    assert of_bands("mean", rgb, 1) == pytest.approx([0.4])
    assert of_bands("mean", (0.1, 0.2), 2) == [0.1, 0.2]
    with pytest.raises(ValueError, match="mean has 5 values, the image 4 bands"):
        of_bands("mean", (0.1,) * 5, 4)
    model = PSPNet("mobilenet_v2", encoder_weights=None, in_channels=4, classes=numbered_classes(2))
    with pytest.raises(ValueError, match=r"expected \[H, W, 4\] or a batch"):
        model.eval().segment(numpy.zeros((8, 8, 3), "uint8"))
