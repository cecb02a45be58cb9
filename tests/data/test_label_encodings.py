"""How label files are written: depths and modes, lossy files, files that would cost too much."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from label_cases import (  # noqa: E402
    SIZE,
    as_dtype,
    classes_map,
    loaded,
    palette_image,
    read_set,
    refused,
    write_pgm,
    write_png,
    write_set,
)

NAMES = {"classes": ["ground", "box", "sky"]}


# How deep a file is, and in which mode.


def as_mode(mode: str):  # type: ignore[no-untyped-def]
    def write(path: Path, values: numpy.ndarray) -> None:
        Image.fromarray(values).convert(mode).save(path)

    return write


def with_alpha(path: Path, values: numpy.ndarray) -> None:
    Image.merge("LA", [Image.fromarray(values), Image.new("L", SIZE[::-1], 255)]).save(path)


def in_palette(path: Path, values: numpy.ndarray) -> None:
    palette_image(values, numpy.random.default_rng(0).integers(0, 256, (256, 3))).save(path)


DEPTHS = {
    "grey of 2 bits": (lambda p, v: write_png(p, v, 2), ".png"),
    "grey of 4 bits": (lambda p, v: write_png(p, v, 4), ".png"),
    "grey of 8 bits": (lambda p, v: write_png(p, v, 8), ".png"),
    "grey of 16 bits": (lambda p, v: write_png(p, v, 16), ".png"),
    "opaque alpha": (with_alpha, ".png"),
    "three equal channels": (as_mode("RGB"), ".png"),
    "three equal channels and alpha": (as_mode("RGBA"), ".png"),
    "palette": (in_palette, ".png"),
    "TIFF of 16 bits": (as_dtype("uint16"), ".tif"),
    "TIFF of 32 bits": (as_dtype("int32"), ".tif"),
    "TIFF of floats": (as_dtype("float32"), ".tif"),
    "BMP": (as_mode("L"), ".bmp"),
    "lossless WebP": (lambda p, v: Image.fromarray(v).save(p, lossless=True), ".webp"),
    "PGM": (lambda p, v: write_pgm(p, v, 255), ".pgm"),
    "PGM with another white": (lambda p, v: write_pgm(p, v, 20), ".pgm"),
    "PGM of 16 bits": (lambda p, v: write_pgm(p, v, 1000), ".pgm"),
    "array of bytes": (as_dtype("uint8"), ".npy"),
    "array of int64": (as_dtype("int64"), ".npy"),
    "array of floats": (as_dtype("float64"), ".npy"),
    "array of 3 dimensions": (lambda p, v: numpy.save(p, v[..., None]), ".npy"),
}


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("named", [True, False])
def test_depth_and_mode_do_not_change_labels(tmp_path: Path, kind: str, named: bool) -> None:
    write, suffix = DEPTHS[kind]
    maps = [classes_map(3, seed) for seed in range(2)]
    split = read_set(write_set(tmp_path, maps, write, suffix, NAMES if named else None))
    assert len(split.labelling.classes) == 3
    for label, expected in zip(loaded(split), maps, strict=True):
        assert numpy.array_equal(label, expected)


def test_depth_one_bit_is_background_and_foreground(tmp_path: Path) -> None:
    maps = [classes_map(2)]
    for name, write in (("png", lambda p, v: write_png(p, v, 1)), ("pillow", as_mode("1"))):
        scaled = [255 * m for m in maps] if name == "pillow" else maps
        split = read_set(write_set(tmp_path / name, scaled, write))
        assert numpy.array_equal(loaded(split)[0], maps[0])


@pytest.mark.parametrize(
    ("write", "suffix", "words"),
    [
        (lambda p, v: write_png(p, numpy.stack([v, v], -1), 16, 2), ".png", ["16 bits"]),
        (lambda p, v: write_png(p, numpy.stack([v] * 3, -1), 16, 3), ".png", ["16 bits"]),
        (lambda p, v: Image.fromarray(v).convert("CMYK").save(p), ".tif", ["mode CMYK"]),
        (lambda p, v: numpy.save(p, v + 0.5), ".npy", ["fraction"]),
        (lambda p, v: numpy.save(p, v + 0j), ".npy", ["complex128"]),
        (lambda p, v: numpy.save(p, numpy.zeros((2, 24, 32))), ".npy", ["(2, 24, 32)"]),
        (lambda p, v: numpy.save(p, numpy.array({}), allow_pickle=True), ".npy", ["numbers"]),
        (lambda p, v: p.write_bytes(b"\x93NUMPY\x01\0\x10\0{'descr': 1"), ".npy", ["damaged"]),
    ],
)
def test_depth_that_holds_no_labels_is_refused(tmp_path: Path, write, suffix, words) -> None:  # type: ignore[no-untyped-def]
    refused(write_set(tmp_path, [classes_map()], write, suffix, NAMES), f"0{suffix}", *words)


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    def write(path: Path, values: numpy.ndarray) -> None:
        alpha = Image.fromarray(255 * (values > 0).astype(numpy.uint8))
        Image.merge("LA", [Image.fromarray(values), alpha]).save(path)

    root = write_set(tmp_path, [classes_map()], write, about=NAMES)
    refused(root, "256 pixels are transparent")


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    def write(path: Path, values: numpy.ndarray) -> None:
        image = Image.fromarray(values)
        image.save(path, save_all=True, append_images=[image, image])

    refused(write_set(tmp_path, [classes_map()], write, ".tif", NAMES), "holds 3 pictures")


# Lossy files.


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png", ".tif", ".jp2"])
def test_lossy_files_are_refused_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    kind = {".jpg": "JPEG", ".webp": "WEBP", ".png": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000"}
    options = {".tif": {"compression": "jpeg"}}.get(suffix, {})

    def write(path: Path, values: numpy.ndarray) -> None:
        data = io.BytesIO()
        Image.fromarray(values).save(data, kind[suffix], **options)
        path.write_bytes(data.getvalue())

    root = write_set(tmp_path, [classes_map(3)], write, suffix, NAMES)
    refused(root, f"0{suffix}", f"lossy {kind[suffix]}", "save label maps as PNG")


# Small files, large cost.


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_cost_of_large_label_files_is_refused_first(tmp_path: Path, suffix: str) -> None:
    """Files of a few bytes that claim 13300 x 13300 pixels."""
    root = write_set(tmp_path, [classes_map(3)], about=NAMES)
    (root / "labels" / "0.png").unlink()
    path = root / "labels" / f"0{suffix}"
    if suffix == ".png":
        write_png(path, numpy.zeros((1, 8), "uint8"), 8)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", 13300, 13300)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        path.write_bytes(data)
    else:
        head = b"{'descr': '<i4', 'fortran_order': False, 'shape': (13300, 13300), }"
        path.write_bytes(b"\x93NUMPY\x01\0v\0" + head.ljust(117) + b"\n")
    refused(root, "13300 x 13300 pixels", "--max-pixels")
