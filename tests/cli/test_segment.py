"""`fastseg segment`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fastseg._files import written_whole
from fastseg.classes import VOC, numbered_classes
from fastseg.cli.app import app
from fastseg.cli.images import ImageError, find_images, read_image
from fastseg.cli.overlay import write_labels, write_overlay
from fastseg.models import load_checkpoint


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["segment", *(str(a) for a in arguments)])


def assert_one_error(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    for word in ("error: ", *words):
        assert word in lines[0]
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_writes_overlay_and_labels(
    photo: numpy.ndarray, photo_file: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder"
    result = run(photo_file, "--weights", weights, "--out", out)
    assert result.exit_code == 0, result.output
    assert "share of pixels" in result.stdout
    assert sorted(p.name for p in out.iterdir()) == ["photo_labels.png", "photo_overlay.png"]
    labels = Image.open(out / "photo_labels.png")
    assert labels.mode == "P"
    assert labels.size == (64, 48)
    assert tuple(labels.getpalette()[:63]) == tuple(v for color in VOC.colors for v in color)
    expected = load_checkpoint(weights).segment(photo)
    assert numpy.array_equal(numpy.asarray(labels), expected.numpy())
    overlay = Image.open(out / "photo_overlay.png")
    assert overlay.mode == "RGB"
    assert overlay.width >= 64
    assert overlay.height > 48


def test_json(photo_file: Path, weights: Path, tmp_path: Path) -> None:
    result = run(photo_file, tmp_path / "none.png", "-w", weights, "-o", tmp_path / "o", "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["model"] == "TFDeepLabMobileNetV2"
    (entry,) = data["images"]
    assert (entry["height"], entry["width"]) == (48, 64)
    assert sum(c["pixels"] for c in entry["classes"]) == 48 * 64
    assert sum(c["share"] for c in entry["classes"]) == pytest.approx(1)
    assert entry["classes"] == sorted(entry["classes"], key=lambda c: -c["pixels"])
    assert all(VOC.names[c["index"]] == c["name"] for c in entry["classes"])
    assert Path(entry["labels"]).is_file()
    assert Path(entry["overlay"]).is_file()
    (error,) = data["errors"]
    assert "none.png: No such file" in error


def test_broken_images_do_not_stop_the_others(
    photo_file: Path, weights: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    data = photo_file.read_bytes()
    (folder / "a_truncated.png").write_bytes(data[: len(data) // 2])
    (folder / "b_text.jpg").write_text("no image")
    (folder / "c_empty.png").write_bytes(b"")
    (folder / "deep" / "good.png").write_bytes(data)
    (folder / "notes.txt").write_text("left alone")
    result = run(folder, "-w", weights, "-o", tmp_path / "out")
    assert result.exit_code == 1
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 3, lines
    for line, name in zip(lines, ("a_truncated", "b_text", "c_empty"), strict=True):
        assert line.startswith("error: ")
        assert name in line
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in written) == [
        os.path.join("deep", "good_labels.png"),
        os.path.join("deep", "good_overlay.png"),
    ]


def test_results_of_an_earlier_run_are_no_images(
    photo_file: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "segmented"
    for _ in range(2):
        result = run(tmp_path, "-w", weights, "-o", out, "--json")
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.stdout)["images"]) == 1


def test_wrong_use_gives_one_line(photo_file: Path, weights: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    assert_one_error(run(tmp_path / "nowhere.jpg", "-w", weights, *out), "nowhere.jpg", "No such")
    (tmp_path / "empty").mkdir()
    assert_one_error(run(tmp_path / "empty", "-w", weights, *out), "empty", "no images")
    assert_one_error(run(photo_file, "-w", tmp_path / "no.pth", *out), "no.pth", "No such file")
    assert_one_error(run(photo_file, "-w", tmp_path, *out), str(tmp_path), "config.json")
    assert_one_error(run(photo_file, "-w", photo_file, *out), "photo.png", "not a checkpoint")
    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(weights.read_bytes()[:5000])
    assert_one_error(run(photo_file, "-w", truncated, *out), "truncated.pth", "truncated")
    assert_one_error(
        run(photo_file, "-w", weights, "--backend", "magic", *out), "backend is 'magic'", "native"
    )
    assert_one_error(run(photo_file, "-w", weights, "--device", "magic", *out), "--device", "cuda")
    assert_one_error(run(photo_file, "-w", weights, "--device", "cuda:99", *out), "cuda:99")
    for in_the_way in (photo_file, photo_file / "below"):
        result = run(photo_file, "-w", weights, "-o", in_the_way)
        assert_one_error(result, f"--out is {in_the_way}", f"{photo_file} is no folder")
    assert not (tmp_path / "out").exists()


def test_a_backend_that_cannot_run_says_why(
    photo_file: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(photo_file, "-w", weights, "-o", out, "--backend", "triton", "--device", "cpu")
    assert_one_error(result, "triton")
    result = run(photo_file, "-w", weights, "-o", out, "--backend", "reference")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(
    photo: numpy.ndarray, tmp_path: Path, orientation: int
) -> None:
    # What must be done to an upright photograph so that this orientation sets it right again.
    transpose = Image.Transpose
    stored = {
        1: None,
        2: transpose.FLIP_LEFT_RIGHT,
        3: transpose.ROTATE_180,
        4: transpose.FLIP_TOP_BOTTOM,
        5: transpose.TRANSPOSE,
        6: transpose.ROTATE_90,
        7: transpose.TRANSVERSE,
        8: transpose.ROTATE_270,
    }[orientation]
    image = Image.fromarray(photo)
    if stored is not None:
        image = image.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    assert numpy.array_equal(read_image(tmp_path / "turned.png"), photo)


def test_every_pixel_format_becomes_rgb(photo: numpy.ndarray, tmp_path: Path) -> None:
    grey = photo[..., 0]
    grey_rgb = numpy.repeat(grey[..., None], 3, axis=2)

    def read(image: Image.Image, suffix: str = "png") -> numpy.ndarray:
        image.save(tmp_path / f"image.{suffix}")
        return read_image(tmp_path / f"image.{suffix}")

    assert numpy.array_equal(read(Image.fromarray(grey)), grey_rgb)
    assert numpy.array_equal(read(Image.fromarray(grey.astype("uint16") * 257)), grey_rgb)
    assert numpy.array_equal(read(Image.fromarray(grey.astype("uint16") * 257), "tif"), grey_rgb)
    black_and_white = read(Image.fromarray(grey > 128))
    assert set(numpy.unique(black_and_white)) == {0, 255}
    palette = Image.fromarray(photo).quantize(32)
    assert numpy.array_equal(read(palette), numpy.asarray(palette.convert("RGB")))
    cmyk = read(Image.fromarray(photo).convert("CMYK"), "tif")
    assert numpy.abs(cmyk.astype(int) - photo).max() <= 2
    floats = read(Image.fromarray(grey.astype("float32") * 0.001 + 3), "tif")
    assert (floats.min(), floats.max()) == (0, 255)
    constant = read(Image.fromarray(numpy.full((4, 4), 7, "int32")), "tif")
    assert constant.shape == (4, 4, 3)


def test_transparent_pixels_are_shown_on_white(photo: numpy.ndarray, tmp_path: Path) -> None:
    alpha = numpy.full((*photo.shape[:2], 1), 255, dtype=numpy.uint8)
    alpha[:10] = 0
    Image.fromarray(numpy.concatenate([photo, alpha], axis=2)).save(tmp_path / "alpha.png")
    result = read_image(tmp_path / "alpha.png")
    assert (result[:10] == 255).all()
    assert numpy.array_equal(result[10:], photo[10:])


def test_unreadable_images_name_the_path(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    with pytest.raises(ImageError, match=r"broken\.jpg: "):
        read_image(path)


def test_names_of_results_differ(photo_file: Path, tmp_path: Path) -> None:
    for name in ("a/cat.png", "b/cat.png", "a/cat.jpg", ".hidden/cat.png", "a/.cat.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(photo_file.read_bytes())
    a, b = tmp_path / "a", tmp_path / "b"
    sources, problems = find_images([a / "cat.png", b, a, tmp_path], without=tmp_path / "out")
    assert problems == []
    assert [(s.path, str(s.name)) for s in sources] == [
        (a / "cat.png", "cat"),
        (b / "cat.png", "cat_2"),
        (a / "cat.jpg", "cat_3"),
        (tmp_path / "photo.png", "photo"),
    ]


def test_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with written_whole(path) as file:
        file.write(b"first")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as file:
        file.write(b"sec")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (40, 9)])
@pytest.mark.parametrize("count", [1, 21, 300])
def test_pictures_of_any_size_and_number_of_classes(
    tmp_path: Path, size: tuple[int, int], count: int
) -> None:
    classes = numbered_classes(count)
    pixels = size[0] * size[1]
    labels = (numpy.arange(pixels) % count).reshape(size)
    write_labels(tmp_path / "labels.png", labels, classes)
    assert numpy.array_equal(numpy.asarray(Image.open(tmp_path / "labels.png")), labels)
    write_overlay(tmp_path / "overlay.png", numpy.zeros((*size, 3), "uint8"), labels, classes)
    overlay = Image.open(tmp_path / "overlay.png")
    assert overlay.width >= size[1]
    assert overlay.height > size[0]


def test_voc_colors_are_the_published_ones() -> None:
    assert VOC.colors[:4] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    assert VOC.colors[VOC.names.index("person")] == (192, 128, 128)
    assert VOC.colors[VOC.names.index("tv")] == (0, 64, 128)
    for count in (21, 150, 1000):
        assert len(set(numbered_classes(count).colors)) == count
    assert len(set(VOC.overlay_colors)) == 21


def test_as_a_program(photo_file: Path, weights: Path, tmp_path: Path) -> None:
    def program(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastseg", "segment", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    done = program(photo_file, "-w", weights, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["images"][0]["overlay"] == str(
        Path("segmented") / "photo_overlay.png"
    )
    assert (tmp_path / "segmented" / "photo_labels.png").is_file()
    failed = program(photo_file, "-w", "nowhere.pth")
    assert failed.returncode == 1
    assert failed.stderr == "error: nowhere.pth: No such file or directory\n"


def test_real_photographs(shared_data: Path, tmp_path: Path) -> None:
    folder, samples = shared_data / "deeplabv3_mnv2_05_voc", shared_data / "samples"
    if not (folder.is_dir() and samples.is_dir()):
        pytest.skip(f"{folder} and {samples} are not there")
    found = {}
    photos = [samples / "pet_Abyssinian_1.jpg", samples / "pet_great_pyrenees_177.jpg"]
    photos.append(samples / "ade20k_val_00000001.jpg")
    weights = folder / "deeplabv3_mnv2_05_voc.pth"
    result = run(*photos, "-w", weights, "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    for entry in json.loads(result.stdout)["images"]:
        with Image.open(entry["image"]) as image, Image.open(entry["labels"]) as labels:
            assert labels.size == image.size
        found[Path(entry["image"]).stem] = {c["name"]: c["share"] for c in entry["classes"]}
    assert found["pet_Abyssinian_1"]["cat"] > 0.08
    assert found["pet_great_pyrenees_177"]["dog"] > 0.1
    assert found["ade20k_val_00000001"]["background"] > 0.95  # a house is none of the classes
