"""What label files mean to the commands: binary masks, colours, EXIF, one class."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from fastseg.cli.app import app

SMALL = (
    "--working-size", 32, "--crop", 32, 32, "--batch-size", 2, "--iterations", 2, "--model",
    "pspnet", "--validate-every", 2, "--ema", 0,
)  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})


def succeeded(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result


def one_error(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """Photographs that are red inside of their masks, which hold 0 and 255."""
    rng = numpy.random.default_rng(0)
    for index in range(4):
        mask = numpy.zeros((32, 32), bool)
        y, x = rng.integers(2, 16, 2)
        mask[y : y + 12, x : x + 12] = True
        photo = numpy.where(mask[..., None], (200, 30, 30), (30, 30, 200)).astype("uint8")
        for folder in ("images", "masks"):
            (tmp_path / "set" / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(tmp_path / "set" / "images" / f"{index}.png")
        Image.fromarray(mask).convert("L").save(tmp_path / "set" / "masks" / f"{index}.png")
    return tmp_path / "set"


@pytest.mark.parametrize("names", [None, ["nothing", "square"], ["square"]])
def test_binary_masks_are_trained_and_scored_as_two_classes(
    binary: Path, tmp_path: Path, names: list[str] | None
) -> None:
    if names is not None:
        (binary / "classes.json").write_text(json.dumps({"classes": names}))
    out = tmp_path / "out"
    said = succeeded("train", binary, "--out", out, *SMALL).stderr
    background, foreground = {
        None: ("background", "foreground"), 2: ("nothing", "square"), 1: ("background", "square"),
    }[names and len(names)]  # fmt: skip
    assert f"the labels are 0 and 255: 0 is {background}, 255 is {foreground}" in said
    assert "pixels of 4 label files: 0 85.9 %, 255 14.1 %" in said
    result = succeeded("eval", binary, "-w", out / "last.pt", "--json")
    scores = json.loads(result.stdout)
    assert [entry["name"] for entry in scores["classes"]] == [background, foreground]
    confusion = numpy.array(scores["confusion"])
    assert confusion.shape == (2, 2) and confusion[1].sum() == 4 * 144
    # With 255 as void, one class is left: that stops, and says what to do.
    assert "one class, " in one_error(
        "train", binary, "--out", tmp_path / "b", *SMALL, "--void", 255
    )


@pytest.mark.parametrize("command", ["train", "eval"])
def test_labels_that_make_no_sense_stop_a_run(
    binary: Path, tmp_path: Path, command: str, weights: Path
) -> None:
    for path in (binary / "masks").iterdir():
        Image.fromarray(numpy.zeros((32, 32), "uint8")).save(path)
    (binary / "classes.json").write_text('{"classes": ["a", "b"]}')
    arguments = (binary, "-o", tmp_path / "out")
    if command == "eval":
        (binary / "classes.json").unlink()
        arguments = (*arguments, "-w", weights)
    else:
        arguments = (*arguments, *SMALL)
    text = one_error(command, *arguments)
    assert "all pixels that count are of one class" in text and "--trust-labels" in text
    succeeded(command, *arguments, "--trust-labels")


def test_ignore_still_works_and_says_its_new_name(binary: Path, tmp_path: Path) -> None:
    for path in (binary / "masks").iterdir():
        values = (numpy.asarray(Image.open(path)) > 0).astype("uint8")
        values[0] = 7
        Image.fromarray(values).save(path)
    result = succeeded("train", binary, "-o", tmp_path / "out", *SMALL, "--ignore", 7)
    lines = result.stderr.splitlines()
    assert lines[0] == "warning: --ignore is called --void now"
    assert "2 classes (class 0, class 1), void 7, 255" in lines[1]


# fastseg crf


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A bright square on dark ground, with some noise."""
    values = numpy.random.default_rng(0).integers(40, 50, (48, 64, 3), dtype=numpy.uint8)
    values[:24, :32] += 130
    Image.fromarray(values).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def refined(photo: Path, mask: Path, *options: object) -> numpy.ndarray:
    out = photo.parent / f"out_{mask.stem}"
    succeeded("crf", photo, mask, "-o", out, "--preset", "boundary", *options)
    with Image.open(out / "photo_labels.png") as image:
        return numpy.asarray(image)


SQUARE = numpy.zeros((48, 64), numpy.uint8)
SQUARE[:24, :32] = 1


@pytest.mark.parametrize("form", ["grey", "one bit", "colours", "palette"])
def test_crf_keeps_the_foreground_of_a_binary_mask(photo: Path, form: str) -> None:
    mask = photo.with_name("mask.png")
    values = numpy.zeros((48, 64), numpy.uint8)
    values[:20, :27] = 1
    image = Image.fromarray(255 * values)
    if form == "one bit":
        image = image.convert("1")
    elif form == "colours":
        image = Image.fromarray(values[..., None] * numpy.array([200, 10, 10], "uint8"))
    elif form == "palette":
        image = Image.fromarray(values)
        image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(mask)
    labels = refined(photo, mask)
    assert set(numpy.unique(labels)) == {0, 1}
    assert (labels != SQUARE).mean() < 0.01, "the labels do not follow the edge"


@pytest.mark.parametrize("white", [255, 65535])
def test_crf_of_a_mask_that_is_all_foreground(photo: Path, white: int) -> None:
    mask = photo.with_name("mask.png")
    Image.fromarray(numpy.full((48, 64), white, "uint8" if white < 256 else "uint16")).save(mask)
    assert (refined(photo, mask) == 1).all()
    assert (
        f"every pixel is {white}: foreground"
        in run("crf", photo, mask, "-o", photo.parent / "o").stderr
    )
    said = one_error("crf", photo, mask, "-o", photo.parent / "o", "--unknown", white)
    assert f"every pixel has the label {white}, which stands for unknown" in said


def test_crf_fills_what_is_unknown(photo: Path) -> None:
    mask = photo.with_name("mask.png")
    values = 255 * SQUARE
    values[20:28] = 7
    Image.fromarray(values).save(mask)
    labels = refined(photo, mask, "--unknown", 7)
    assert set(numpy.unique(labels)) <= {0, 255}
    assert (labels != 255 * SQUARE).mean() < 0.01
    said = run("crf", photo, mask, "-o", photo.parent / "o", "--void", "7,255")
    assert said.exit_code == 0


def test_crf_turns_labels_with_their_photograph(photo: Path) -> None:
    mask = photo.with_name("mask.png")
    Image.fromarray(255 * SQUARE).save(mask)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(photo) as image:
        image.save(photo, exif=exif)
    labels = refined(photo, mask)
    assert labels.shape == (64, 48)
    assert (labels != numpy.rot90(SQUARE, -1)).mean() < 0.01


def test_crf_refuses_lossy_masks(photo: Path) -> None:
    mask = photo.with_name("mask.jpg")
    Image.fromarray(255 * SQUARE).save(mask)
    assert "lossy JPEG" in one_error("crf", photo, mask, "-o", photo.parent / "o")


def test_crf_label_map(photo: Path) -> None:
    mask = photo.with_name("mask.png")
    Image.fromarray(147 * SQUARE).save(mask)
    labels = refined(photo, mask, "--label-map", "147=1")
    assert set(numpy.unique(labels)) == {0, 1}


# Images that are no photographs


@pytest.mark.parametrize(("bands", "suffix"), [(4, ".tif"), (5, ".npy"), (2, ".npy")])
def test_bands_from_training_to_labels(tmp_path: Path, bands: int, suffix: str) -> None:
    """The last band tells the class."""
    rng = numpy.random.default_rng(0)
    root = tmp_path / "set"
    for index in range(4):
        label = (rng.random((8, 8)) < 0.5).repeat(4, 0).repeat(4, 1)
        image = rng.integers(0, 2000, (32, 32, bands), dtype=numpy.uint16)
        image[..., -1] = numpy.where(label, 3900, 100)
        for folder in ("images", "labels"):
            for split in ("train", "val"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            path = root / "images" / split / f"{index}{suffix}"
            if suffix == ".npy":
                numpy.save(path, image)
            else:
                tifffile = pytest.importorskip("tifffile")
                tifffile.imwrite(path, image, photometric="minisblack", planarconfig="contig")
            label_path = root / "labels" / split / f"{index}.png"
            Image.fromarray(label.astype("uint8")).save(label_path)
    out = tmp_path / "out"
    said = succeeded("train", root, "--out", out, *SMALL).stderr
    assert f"the images have {bands} bands" in said
    from fastseg.engine.architectures import load_model

    model = load_model(out / "best.pt")
    assert model.in_channels == bands == len(model.mean) == len(model.std)
    assert model.mean[-1] == pytest.approx(0.49, abs=0.1)
    succeeded("eval", root, "-w", out / "best.pt")
    succeeded(
        "segment", root / "images" / "val" / f"0{suffix}", "-w", out / "best.pt", "-o",
        tmp_path / "segmented",
    )  # fmt: skip
    with Image.open(tmp_path / "segmented" / "0_labels.png") as image:
        assert image.size == (32, 32)
    other = tmp_path / "other" / "images"
    assert torch.is_tensor(next(model.parameters())) and not other.exists()
