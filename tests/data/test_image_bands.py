"""Images of other bands than the model takes: works and is said, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from fastseg.data.arrays import as_bytes  # noqa: E402
from fastseg.data.bands import ON_WHITE  # noqa: E402
from fastseg.data.images import ImageError, image_bands, read_image  # noqa: E402


def values(bands: int, dtype: str = "uint8") -> numpy.ndarray:
    top = 250 if dtype == "uint8" else 4000
    rng = numpy.random.default_rng(bands)
    return rng.integers(1, top, (20, 30, bands)).astype(dtype)


def write_tiff(path: Path, x: numpy.ndarray, **options: Any) -> None:
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(path, x, planarconfig="contig", **options)


def read(path: Path, bands: int = 3) -> tuple[numpy.ndarray, list[str]]:
    notes: list[str] = []
    return read_image(path, bands, notes.append), notes


def on_white(pixels: numpy.ndarray, opacity: numpy.ndarray) -> numpy.ndarray:
    return pixels * opacity + 255 * (1 - opacity)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_opacity_of_a_photograph_is_shown_on_white_and_said(tmp_path: Path, suffix: str) -> None:
    x, path = values(4), tmp_path / f"x.{suffix}"
    Image.fromarray(x).save(path, lossless=True, exact=True)
    image, notes = read(path)
    expected = on_white(x[..., :3], x[..., 3:] / 255)
    assert numpy.abs(image - expected).max() <= 1
    assert notes == [ON_WHITE]
    assert read(path, 1)[1] == [ON_WHITE]
    x[..., 3] = 255  # which hides nothing
    Image.fromarray(x).save(path, lossless=True, exact=True)
    assert numpy.array_equal(read(path)[0], x[..., :3])
    assert read(path)[1] == []


def test_opacity_of_grey_photographs_and_palettes(tmp_path: Path) -> None:
    x, path = values(2), tmp_path / "x.png"
    Image.fromarray(x, "LA").save(path)
    image, notes = read(path)
    assert numpy.abs(image - on_white(x[..., :1], x[..., 1:] / 255)).max() <= 1
    assert notes == [ON_WHITE]
    indexed = Image.fromarray((x[..., 0] % 4).astype("uint8"), "P")
    indexed.putpalette([i for i in range(12)])
    indexed.save(path, transparency=2)
    assert read(path)[1] == [ON_WHITE]
    assert (read(path)[0][x[..., 0] % 4 == 2] == 255).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", [0, 2])
def test_bands_beyond_the_colours_of_a_tiff_are_left_out_and_said(
    tmp_path: Path, dtype: str, kind: int
) -> None:
    x, path = values(4, dtype), tmp_path / "x.tif"
    write_tiff(path, x, photometric="rgb", extrasamples=[kind])
    image, notes = read(path)
    assert numpy.array_equal(image, as_bytes(x[..., :3]))
    assert notes == ["band 4 beyond red, green and blue left out"]
    assert numpy.array_equal(read(path, 4)[0], as_bytes(x))
    assert read(path, 4)[1] == []
    assert image_bands(path) == 4
    x = values(6, dtype)
    write_tiff(path, x, photometric="rgb", extrasamples=[0, 0, 2])
    assert read(path)[1] == ["bands 4 to 6 beyond red, green and blue left out"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("colors", [1, 3])
def test_opacity_that_multiplied_the_colours_of_a_tiff_is_shown_on_white(
    tmp_path: Path, dtype: str, colors: int
) -> None:
    path, white = tmp_path / "x.tif", {"uint8": 255, "uint16": 65535, "float32": 1.0}[dtype]
    opacity = numpy.random.default_rng(0).uniform(0.5, 1, (20, 30, 1))
    seen = numpy.random.default_rng(1).uniform(0, 1, (20, 30, colors))
    seen[0, 0], seen[0, 1], opacity[0, :2] = 0, 1, 1
    x = numpy.concatenate([seen * opacity, opacity], 2) * white
    x = x if dtype == "float32" else x.round()
    photometric = "rgb" if colors == 3 else "minisblack"
    write_tiff(path, x.astype(dtype), photometric=photometric, extrasamples=[1])
    image, notes = read(path)
    assert numpy.abs(image - on_white(255 * seen, opacity)).max() <= 2
    assert notes == [ON_WHITE]


@pytest.mark.parametrize("how", ["minisblack", "pages", "npy", "npy, bands first", "Pillow's grey"])
@pytest.mark.parametrize("bands", [2, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_bands_of_no_known_meaning_are_refused(
    tmp_path: Path, how: str, bands: int, dtype: str
) -> None:
    x, path = values(bands, dtype), tmp_path / ("x.npy" if "npy" in how else "x.tif")
    if how == "minisblack":
        write_tiff(path, x, photometric="minisblack")
    elif how == "npy":
        numpy.save(path, x)
    elif how == "npy, bands first":
        numpy.save(path, x.transpose(2, 0, 1))
    else:
        frames = [Image.fromarray(numpy.ascontiguousarray(x[..., i])) for i in range(bands)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        pytest.importorskip("tifffile")
    for takes in (1, 3):
        with pytest.raises(
            ImageError, match=rf"{path.name}: has {bands} bands, expected {takes} as"
        ):
            read_image(path, takes)
    assert image_bands(path) == bands
    assert numpy.array_equal(read_image(path, bands), as_bytes(x))


def test_bands_of_pages_of_other_sizes_are_no_stack(tmp_path: Path) -> None:
    grey = Image.fromarray(values(1)[..., 0])
    grey.save(tmp_path / "x.tif", save_all=True, append_images=[grey.resize((15, 10))])
    assert numpy.array_equal(read_image(tmp_path / "x.tif", 1), values(1))
    assert image_bands(tmp_path / "x.tif") == 3


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_inks_are_a_photograph(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(values(3)).convert("CMYK").save(path)
    assert image_bands(path) == 3
    assert numpy.abs(read_image(path) - values(3).astype(int)).mean() < (
        40 if suffix == "jpg" else 1
    )
    with pytest.raises(ImageError, match="has 3 bands, expected 4"):
        read_image(path, 4)


def write_any(path: Path, kind: str) -> None:
    if kind == "RGBA PNG":
        Image.fromarray(values(4)).save(path.with_suffix(".png"))
    elif kind == "grey and opacity PNG":
        Image.fromarray(values(2), "LA").save(path.with_suffix(".png"))
    elif kind == "RGB and infrared TIFF":
        write_tiff(path.with_suffix(".tif"), values(4), photometric="rgb", extrasamples=[0])
    elif kind == "four grey bands TIFF":
        write_tiff(path.with_suffix(".tif"), values(4), photometric="minisblack")
    elif kind == "two bands npy":
        numpy.save(path.with_suffix(".npy"), values(2))


CLEAR = {
    "RGBA PNG": ON_WHITE,
    "grey and opacity PNG": ON_WHITE,
    "RGB and infrared TIFF": "band 4 beyond red, green and blue left out",
}
UNCLEAR = {"four grey bands TIFF": 4, "two bands npy": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("typer")
    from fastseg.models import PSPNet

    folder = tmp_path_factory.mktemp("model")
    PSPNet("mobilenet_v2", encoder_weights=None, classes=2).save_pretrained(folder)
    return folder


def make_data(root: Path, kind: str) -> Path:
    """A data set whose images are of a kind."""
    for split, count in (("train", 2), ("val", 1)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for i in range(count):
            write_any(root / "images" / split / f"{i}", kind)
            label = numpy.zeros((20, 30), "uint8")
            label[5:15, 5:15] = 1
            Image.fromarray(label).save(root / "labels" / split / f"{i}.png")
    return root


def run(*arguments: object) -> Any:
    from typer.testing import CliRunner

    from fastseg.cli.app import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.mark.parametrize("kind", CLEAR)
def test_commands_say_in_one_line_what_a_photograph_loses(
    tmp_path: Path, model: Path, kind: str
) -> None:
    data = make_data(tmp_path / "data", kind)
    images = data / "images" / "val"
    segment = run("segment", images, "-w", model, "-o", tmp_path / "s", "--json")
    assert segment.exit_code == 0, segment.stderr
    assert len(json.loads(segment.stdout)["images"]) == 1
    score = run("eval", data, "-w", model)
    assert score.exit_code == 0, score.stderr
    for stderr in (segment.stderr, score.stderr):
        assert stderr.count(f"{CLEAR[kind]} (1 of 1 images)") == 1, stderr
    (image,) = images.iterdir()
    refined = run("crf", image, data / "labels" / "val" / "0.png", "-o", tmp_path / "c")
    assert refined.exit_code == 0, refined.stderr
    assert ("has 4 bands" if "TIFF" in kind else ON_WHITE) in refined.stderr


@pytest.mark.parametrize("kind", UNCLEAR)
def test_commands_refuse_bands_of_no_known_meaning_in_one_line(
    tmp_path: Path, model: Path, kind: str
) -> None:
    data, bands = make_data(tmp_path / "data", kind), UNCLEAR[kind]
    for arguments in (
        ("segment", data / "images" / "val", "-w", model, "-o", tmp_path / "s"),
        ("eval", data, "-w", model),
    ):
        result = run(*arguments)
        (line,) = result.stderr.strip().splitlines()
        assert result.exit_code == 1
        assert f": has {bands} bands, expected 3 as the model takes" in line


def test_training_says_in_one_line_what_photographs_lose(tmp_path: Path) -> None:
    pytest.importorskip("typer")
    data = make_data(tmp_path / "data", "RGBA PNG")
    result = run("train", data, "-o", tmp_path / "run", "-m", "pspnet", "--iterations", 1,
                 "--batch-size", 2, "--crop", 32, 32, "--working-size", 32)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stderr.count(f"{ON_WHITE} (2 of 2 images)") == 1, result.stderr
