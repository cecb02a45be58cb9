"""Random label files through `fastseg crf`, `eval` and `train`: right, or one clear line."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest

pytest.importorskip("typer")
Image = pytest.importorskip("PIL.Image")

import fuzzing  # noqa: E402
from fuzzing import Case, run_cases  # noqa: E402

SIZE = (24, 32)
_DTYPES = ("uint8", "uint16", "int32", "uint32", "int64", "float32", "float64", "bool", "int8")
_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F",
          "I;16")  # fmt: skip
_SUFFIXES = (
    ".png", ".png", ".png", ".tif", ".tif", ".bmp", ".gif", ".webp", ".pgm", ".tga", ".jpg", ".jp2",
    ".npy", ".npy",
)  # fmt: skip
_FORMATS = {".tif": "TIFF", ".jpg": "JPEG", ".jp2": "JPEG2000", ".pgm": "PPM"}
_VALUES: tuple[tuple[int, ...], ...] = (
    (0, 255), (0, 1), (0, 1, 255), (0, 1, 2), (0, 147, 220), (0,), (255,), (0, 65535), (0, 1, -1),
    (0, 2**31 - 1), (3, 9), tuple(range(256)), tuple(range(20)), (0, 1, 2**40), (128, 129),
    (0, 64, 128, 192),
)  # fmt: skip
_OPTIONS = (
    *(16 * ((),)), ("--label-map", "147=1,220=2"), ("--label-map", "1=void"),
    ("--label-map", "#ff0000=1"), ("--label-map", "x"), ("--void", "none"), ("--void", "0"),
    ("--void", "65535"), ("--void", "-1"), ("--void", "1,255"), ("--void", "?"),
)  # fmt: skip
_OPTIONS_OF_SETS = (
    *_OPTIONS, ("--labels-drawn", "upright"), ("--labels-drawn", "x"), ("--trust-labels",),
    ("--layout", "folders"), ("--layout", "voc"), ("--ignore", "3"),
)  # fmt: skip


def pick(rng: numpy.random.Generator, choices: Any) -> Any:
    return choices[int(rng.integers(len(choices)))]


def label_map(rng: numpy.random.Generator, known: tuple[int, ...] | None) -> numpy.ndarray:
    """Values in blocks or as noise, of the photograph's size or of another."""
    size = SIZE
    if known is None and rng.random() < 0.15:
        size = pick(rng, ((32, 24), (1, 1), (24, 31), (1, 500), (7, 9)))
    values = numpy.array(known or pick(rng, _VALUES))
    blocks = rng.integers(0, len(values), (-(-size[0] // 6), -(-size[1] // 6)))
    if rng.random() < 0.15:
        return values[rng.integers(0, len(values), size)]
    return values[blocks.repeat(6, 0).repeat(6, 1)[: size[0], : size[1]]]


def encoded(rng: numpy.random.Generator, values: numpy.ndarray) -> tuple[str, bytes]:
    """A label file's suffix and content, of any format, depth and mode that can be written."""
    data = io.BytesIO()
    while True:
        suffix = pick(rng, _SUFFIXES)
        try:
            if suffix == ".npy":
                array = values.astype(pick(rng, _DTYPES))
                if rng.random() < 0.2:
                    array = array[None] if rng.random() < 0.5 else array[..., None].repeat(3, -1)
                numpy.save(data, array)
                return suffix, data.getvalue()
            if suffix == ".png" and rng.random() < 0.3:
                return suffix, grey_png(values, pick(rng, (1, 2, 4, 16)), pick(rng, (1, 1, 2, 3)))
            image = image_of(rng, values)
            options: dict[str, Any] = {}
            if suffix == ".webp":
                options["lossless"] = rng.random() < 0.7
            if suffix == ".tif":
                options["compression"] = pick(
                    rng, (None, None, "tiff_lzw", "packbits", "jpeg", "tiff_deflate")
                )
            if rng.random() < 0.2 and suffix in (".png", ".tif", ".jpg", ".webp"):
                exif = Image.Exif()
                exif[0x0112] = int(rng.integers(0, 11))
                options["exif"] = exif
            if rng.random() < 0.05 and suffix in (".tif", ".gif", ".png", ".webp"):
                options |= {"save_all": True, "append_images": [image, image]}
            image.save(data, _FORMATS.get(suffix, suffix[1:].upper()), **options)
            return suffix, data.getvalue()
        except Exception:  # the format has not this mode, or Pillow not this codec
            data = io.BytesIO()


def image_of(rng: numpy.random.Generator, values: numpy.ndarray) -> Image.Image:
    mode = pick(rng, _MODES)
    if mode in ("I", "F", "I;16"):
        dtype = {"I": "int32", "F": "float32", "I;16": "uint16"}[mode]
        return Image.fromarray(values.astype(dtype))
    small = Image.fromarray(values.astype("uint8"))
    if mode == "P":
        colors = rng.integers(0, 256, 768, dtype="uint8")
        small.putpalette(colors[: 3 * pick(rng, (2, 16, 256, 256))].tobytes())
        if rng.random() < 0.2:
            small.info["transparency"] = 0
        return small
    if mode in ("RGB", "RGBA") and rng.random() < 0.7:
        palette = rng.integers(0, 256, (256, 3), dtype="uint8")
        palette[:3] = (0, 0, 0), (128, 0, 0), (0, 128, 0)
        colored = Image.fromarray(palette[numpy.asarray(small)])
        if mode == "RGBA":
            colored.putalpha(pick(rng, (255, 0, 128)))
        return colored
    return small.convert(mode)


def grey_png(values: numpy.ndarray, bits: int, channels: int) -> bytes:
    height, width = values.shape
    if bits < 16:
        channels = 1
    samples = (values.astype("int64") % (1 << bits)).repeat(channels, 1)
    if bits == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        planes = (samples[..., None] >> numpy.arange(bits - 1, -1, -1)) & 1
        packed = numpy.packbits(planes.reshape(height, -1).astype("uint8"), axis=1)
        rows = [row.tobytes() for row in packed]
    head = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 2: 4, 3: 2}[channels], 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows)))]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (*parts, (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


def damaged(rng: numpy.random.Generator, suffix: str, data: bytes) -> tuple[str, bytes]:
    """A file that was cut, changed, misnamed, or claims to be huge."""
    kind = pick(rng, ("cut", "flipped", "empty", "huge", "misnamed", "text", "longer"))
    content = bytearray(data)
    if kind == "cut":
        return suffix, data[: int(rng.integers(0, len(data) + 1))]
    if kind == "flipped":
        for _ in range(int(rng.integers(1, 12))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        return suffix, bytes(content)
    if kind == "huge" and suffix == ".png":
        sides = pick(rng, ((13300, 13300), (2**31 - 1, 1), (60000, 60000), (1, 2**31 - 1), (0, 0)))
        content[16:24] = struct.pack(">II", *sides)
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
        return suffix, bytes(content)
    if kind == "huge" and suffix == ".npy":
        return suffix, data.replace(
            b"(24, 32)", pick(rng, (b"(90000, 90000)", b"(2, -1)", b"(9,)"))
        )
    if kind == "misnamed":
        return pick(rng, _SUFFIXES), data
    return suffix, {"empty": b"", "text": b"no labels\n"}.get(kind, data + b"\0more" * 9)


def photo(rng: numpy.random.Generator) -> bytes:
    data = io.BytesIO()
    image = Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype="uint8"))
    exif = Image.Exif()
    if rng.random() < 0.25:
        exif[0x0112] = int(rng.integers(0, 11))
    image.save(data, "PNG", exif=exif)
    return data.getvalue()


def classes_file(rng: numpy.random.Generator) -> bytes | None:
    about: dict[str, Any] = {"classes": [f"c{i}" for i in range(pick(rng, (1, 2, 3, 21)))]}
    kind = rng.integers(0, 8)
    if kind < 4:
        return None
    if kind == 5:
        about["ignore_label"] = pick(rng, (255, -1, [0, 255], 65535, "x", 1.5))
    if kind == 6:
        about["palette_rgb"] = pick(
            rng, ([[0, 0, 0], [128, 0, 0], [0, 128, 0]], [[0, 0, 0]], [[1, 2]], "x")
        )
    if kind == 7:
        return pick(rng, (b"{", b"[]", b"\xff\xfe", b'{"classes": Infinity}', b"\xef\xbb\xbf{}"))
    return json.dumps(about).encode()


def make_case(seed: int, weights: Path) -> Case:
    rng = numpy.random.default_rng(seed)

    # Half of the data sets fit together: labels that the model knows, in intact files.
    known = pick(rng, ((0, 1, 2), (3, 9), (0, 20, 255))) if rng.random() < 0.5 else None

    def label() -> tuple[str, bytes]:
        suffix, data = encoded(rng, label_map(rng, known))
        if known is None and rng.random() < 0.4:
            return damaged(rng, suffix, data)
        return suffix, data

    command = "crf" if seed % 10 < 6 else "eval" if seed % 10 < 9 else "train"
    if command == "crf":
        suffix, data = label()
        files = {"photo.png": photo(rng), f"mask{suffix}": data}
        arguments = (
            "crf", "{folder}/photo.png", f"{{folder}}/mask{suffix}", "-o", "{folder}/out",
            "--iterations", "1", *pick(rng, _OPTIONS),
        )  # fmt: skip
        return Case(f"label file {seed}", arguments, files)
    files = {}
    for index in range(2):
        suffix, data = label()
        files |= {f"set/images/{index}.png": photo(rng), f"set/labels/{index}{suffix}": data}
    about = classes_file(rng)
    if about is not None:
        files["set/classes.json"] = about
    options = pick(rng, _OPTIONS_OF_SETS)
    if command == "eval":
        arguments = (
            "eval",
            "{folder}/set",
            "-w",
            "{folder}/w.pth",
            "--working-size",
            "32",
            *options,
        )
        return Case(f"label file {seed}", arguments, files, {"w.pth": str(weights)})
    arguments = (
        "train", "{folder}/set", "-o", "{folder}/out", "--model", "pspnet", "--iterations", "1",
        "--working-size", "32", "--crop", "32", "32", "--batch-size", "2", *options,
    )  # fmt: skip
    return Case(f"label file {seed}", arguments, files)


@pytest.mark.slow
def test_label_files_give_a_result_or_one_line(weights: Path) -> None:
    """FASTSEG_FUZZ=2000 runs as many of them."""
    cases = (make_case(seed, weights) for seed in range(fuzzing.count(30)))
    codes: Counter[tuple[str, int | None]] = Counter()
    problems, slowest = [], 0.0
    for result in run_cases(cases):
        codes[result.case.arguments[0], result.code] += 1
        slowest = max(slowest, result.seconds)
        if result.problem:
            problems.append(result.problem)
    assert not problems, "\n\n".join(problems[:20])
    assert slowest < fuzzing.SECONDS
    print(dict(codes), f"slowest {slowest:.1f} s")
    # Both ends are reached, so that the cases are neither all refused nor all harmless.
    assert codes["crf", 0] and codes["crf", 1] and codes["eval", 1]
