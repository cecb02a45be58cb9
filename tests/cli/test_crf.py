"""`fastseg crf` and `fastseg segment --crf`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from fastseg.cli.app import app
from fastseg.crf import PRESETS, DenseCRF, utils
from fastseg.models import load_checkpoint


def run(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(app, [command, *(str(a) for a in arguments)])


def assert_one_error(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    for word in ("error: ", *words):
        assert word in lines[0]
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    """Labels 3 and 9 on 48 x 64 pixels, five pixels beside the edges of the flat photograph."""
    labels = numpy.full((48, 64), 9, numpy.uint8)
    labels[:21, :19] = 3
    labels[40:, 60:] = 255
    path = tmp_path / "labels.png"
    Image.fromarray(labels).save(path)
    return path


@pytest.fixture
def flat(tmp_path: Path) -> numpy.ndarray:
    """The photograph photo.png: a bright corner of 16 x 24 pixels on a dark ground."""
    values = numpy.random.default_rng(0).integers(40, 50, (48, 64, 3), dtype=numpy.uint8)
    values[:16, :24] += 130
    Image.fromarray(values).save(tmp_path / "photo.png")
    return values


def planes(photo: numpy.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)[None]


def test_label_map(flat: numpy.ndarray, labels_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    arguments = (tmp_path / "photo.png", labels_file, "--out", out, "--preset", "boundary")
    result = run("crf", *arguments)
    assert result.exit_code == 0, result.output
    assert "% of the pixels changed" in result.stdout
    names = sorted(p.name for p in out.iterdir())
    assert names == ["photo_before_after.png", "photo_labels.png"]
    refined = numpy.asarray(Image.open(out / "photo_labels.png"))
    given = numpy.asarray(Image.open(labels_file))
    index = numpy.select([given == 3, given == 9], [1, 2], 0)
    unary = torch.from_numpy(utils.unary_from_labels(index, 2, 0.7)).view(1, 2, 48, 64)
    expected = DenseCRF.preset("boundary", 2).predict(images=planes(flat), unary=unary)[0]
    assert numpy.array_equal(refined, numpy.array([3, 9])[expected.numpy()])
    corner = numpy.full((48, 64), 9)
    corner[:16, :24] = 3
    assert (refined != corner).mean() < 0.01, "the labels do not follow the edge of the corner"
    picture = Image.open(out / "photo_before_after.png")
    assert picture.width >= 2 * 64 and picture.height > 48


def test_probabilities_of_lower_resolution(
    photo: numpy.ndarray, photo_file: Path, tmp_path: Path
) -> None:
    logits = numpy.random.default_rng(0).standard_normal((4, 12, 16)).astype("float32")
    probabilities = torch.from_numpy(logits).softmax(0).numpy()
    numpy.save(tmp_path / "logits.npy", logits)
    numpy.savez(tmp_path / "probabilities.npz", p=probabilities)
    options = ("--iterations", 2, "--json")
    maps = []
    for name, more in (("logits.npy", ["--logits"]), ("probabilities.npz", [])):
        out = tmp_path / name.partition(".")[0]
        result = run("crf", photo_file, tmp_path / name, "-o", out, *options, *more)
        assert result.exit_code == 0, result.output
        data = json.loads(result.stdout)
        assert 0 <= data["changed"] <= 1 and data["preset"] == "pydensecrf"
        maps.append(numpy.asarray(Image.open(data["labels"])))
    crf = DenseCRF.preset("pydensecrf", 4, iterations=2)
    expected = crf.predict(torch.from_numpy(logits)[None], planes(photo))[0]
    assert numpy.array_equal(maps[0], expected.numpy())
    assert (maps[0] != maps[1]).mean() < 0.01  # probabilities are clipped


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (numpy.zeros((48, 60), "uint8"), ["60x48 pixels, its image photo.png has 64x48"]),
        (numpy.full((48, 64), -1), ["the label -1 is negative"]),
        (numpy.full((48, 64), 0.5), ["numbers with a fraction"]),
        (numpy.zeros((48, 64), "complex64"), ["complex64 of shape (48, 64)"]),
        (numpy.zeros((2, 48, 64), "int32"), ["int32 of shape"]),
        (numpy.zeros((0, 4, 4), "float32"), ["empty"]),
        (numpy.full((2, 48, 64), 3.0), ["not probabilities", "--logits"]),
        (numpy.full((2, 48, 64), numpy.nan), ["not probabilities"]),
        (numpy.full((48, 64, 2), 0.5), ["not probabilities", "expected [L, H, W]"]),
        (numpy.full((48, 64), 65536), ["the label 65536 is larger than 65535"]),
        (numpy.array({"a": 1}, dtype=object), ["wrong.npy", "array of numbers"]),
    ],
)
def test_wrong_labellings(
    array: numpy.ndarray, words: list[str], photo_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.npy"
    numpy.save(path, array, allow_pickle=True)
    out = tmp_path / "out"
    assert_one_error(run("crf", photo_file, path, "-o", out), str(path), *words)
    assert not out.exists()


def test_wrong_files_and_options(photo_file: Path, labels_file: Path, tmp_path: Path) -> None:
    two = tmp_path / "two.npz"
    numpy.savez(two, a=numpy.zeros(2), b=numpy.zeros(2))
    broken = tmp_path / "broken.png"
    broken.write_bytes(labels_file.read_bytes()[:60])
    notes = tmp_path / "notes.txt"
    notes.write_text("no labels")
    nan = tmp_path / "nan.npy"
    numpy.save(nan, numpy.full((2, 48, 64), numpy.nan, "float32"))
    missing = tmp_path / "missing.png"
    for arguments, words in (
        ((photo_file, missing), [str(missing), "No such file"]),
        ((missing, labels_file), [str(missing), "No such file"]),
        ((photo_file, broken), [str(broken)]),
        ((photo_file, notes), [str(notes), "not an image"]),
        ((photo_file, photo_file), [str(photo_file), "different colours"]),
        ((photo_file, two), [str(two), "expected one array, it holds 2 (a, b)"]),
        ((photo_file, nan, "--logits"), [str(nan), "logits has nan at (0, 0, 0, 0)"]),
        ((photo_file, labels_file, "--preset", "best"), ["--preset is 'best'", "boundary"]),
        ((photo_file, labels_file, "--certainty", "1"), ["--certainty is 1.0"]),
        ((photo_file, labels_file, "--device", "tpu"), ["--device is 'tpu'"]),
        ((photo_file, labels_file, "-o", photo_file), ["--out is", "is no folder"]),
    ):
        assert_one_error(run("crf", *arguments), *words)


@pytest.mark.parametrize("preset", PRESETS)
def test_segment(
    preset: str, photo: numpy.ndarray, photo_file: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run("segment", photo_file, "-w", weights, "-o", out, "--crf", preset, "--json")
    assert result.exit_code == 0, result.output
    (entry,) = json.loads(result.stdout)["images"]
    assert entry["before_after"] == str(out / "photo_before_after.png")
    names = sorted(p.name for p in out.iterdir())
    assert names == ["photo_before_after.png", "photo_labels.png", "photo_overlay.png"]
    model = load_checkpoint(weights)
    expected = model.segment(photo, crf=DenseCRF.preset(preset, 21))
    assert numpy.array_equal(numpy.asarray(Image.open(out / "photo_labels.png")), expected)
    logits = model(model.preprocess(photo)) if preset == "deeplab" else None
    if logits is not None and model.input_size(48, 64) == (48, 64):
        refined = DenseCRF.preset(preset, 21).predict(logits, planes(photo))
        assert torch.equal(refined[0], expected)


def test_segment_with_an_unknown_preset(photo_file: Path, weights: Path, tmp_path: Path) -> None:
    result = run("segment", photo_file, "-w", weights, "-o", tmp_path / "o", "--crf", "best")
    assert_one_error(result, "--crf is 'best'", "deeplab")


@pytest.mark.parametrize("orientation", [2, 3, 4, 6])
def test_exif_labels_are_those_of_the_stored_pixels_unless_told(
    flat: numpy.ndarray, tmp_path: Path, orientation: int
) -> None:
    """Where the size does not tell, one line says what was taken, and --labels-drawn decides."""
    from fastseg.data.orientation import upright

    stored = flat[:, :48] if orientation == 6 else flat  # turned by 90 degrees only a square fits
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "turned.png", exif=exif)
    labels = numpy.arange(stored[..., 0].size).reshape(stored.shape[:2]) * 8 // stored[..., 0].size
    Image.fromarray(labels.astype("uint8")).save(tmp_path / "drawn.png")
    arguments = (tmp_path / "turned.png", tmp_path / "drawn.png", "--iterations", 0)
    for drawn, expected in (
        ("auto", upright(labels, orientation)),
        ("stored", upright(labels, orientation)),
        ("upright", labels),
    ):
        out = tmp_path / drawn
        result = run("crf", *arguments, "-o", out, "--labels-drawn", drawn)
        assert result.exit_code == 0, result.output
        assert ("else give --labels-drawn upright" in result.stderr) == (drawn == "auto")
        found = numpy.asarray(Image.open(out / "turned_labels.png"))
        assert numpy.array_equal(found, expected)


def test_whole_numbers_in_any_dtype_are_labels(flat: numpy.ndarray, tmp_path: Path) -> None:
    labels = numpy.arange(48 * 64).reshape(48, 64) // 1000
    results = []
    for dtype in ("uint8", "float64", "float32", "int64"):
        numpy.save(tmp_path / "labels.npy", labels.astype(dtype))
        result = run("crf", tmp_path / "photo.png", tmp_path / "labels.npy", "-o", tmp_path / "out")
        assert result.exit_code == 0, result.output
        results.append((tmp_path / "out" / "photo_labels.png").read_bytes())
    assert len(set(results)) == 1
