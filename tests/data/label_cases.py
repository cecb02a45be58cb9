"""Small data sets whose label files are written in any way, and what is read from them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from fastseg.data import (
    DatasetError,
    LabelOptions,
    Split,
    check_sense,
    label_options,
    labelling_of,
    open_data_set,
)

SIZE = (24, 32)
Writer = Callable[[Path, numpy.ndarray], None]


def classes_map(count: int = 3, seed: int = 0) -> numpy.ndarray:
    """Classes [24, 32] in blocks, all of them present."""
    rng = numpy.random.default_rng(seed)
    blocks = rng.permutation(numpy.arange(6 * 8) % count).reshape(6, 8)
    return blocks.repeat(4, axis=0).repeat(4, axis=1).astype(numpy.uint8)


def write_set(
    root: Path,
    maps: list[numpy.ndarray],
    write: Writer | None = None,
    suffix: str = ".png",
    about: dict[str, object] | None = None,
) -> Path:
    """images/N.png and labels/N.SUFFIX, and perhaps classes.json."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    rng = numpy.random.default_rng(1)
    for index, values in enumerate(maps):
        photo = rng.integers(0, 256, (*values.shape[:2], 3), dtype=numpy.uint8)
        Image.fromarray(photo).save(root / "images" / f"{index}.png")
        path = root / "labels" / f"{index}{suffix}"
        if write is None:
            Image.fromarray(values).save(path)
        else:
            write(path, values)
    if about is not None:
        (root / "classes.json").write_text(json.dumps(about))
    return root


def read_set(root: Path, options: LabelOptions | None = None, layout: str | None = None) -> Split:
    """All pairs of a data set, or those of its training split, read."""
    data = open_data_set(root, layout)
    name = data.split("train")
    assert name is not None
    labelling, _ = labelling_of(data, data.splits[name], options)
    return Split(name, data.splits[name], labelling, cache_bytes=1 << 30)


def write_png(path: Path, values: numpy.ndarray, bits: int, channels: int = 1) -> None:
    """A PNG of 1, 2, 4, 8 or 16 bits: grey, with alpha (2 channels), colours (3) or both (4)."""
    height, width = values.shape[:2]
    samples = values.reshape(height, width * channels).astype(numpy.uint16)
    if bits == 16:
        rows = samples.astype(">u2").tobytes()
        stride = 2 * width * channels
    else:
        planes = (samples[..., None] >> numpy.arange(bits - 1, -1, -1)) & 1
        rows = numpy.packbits(planes.reshape(height, -1).astype(numpy.uint8), axis=1).tobytes()
        stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


def write_pgm(path: Path, values: numpy.ndarray, largest: int) -> None:
    head = f"P5\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode()
    path.write_bytes(head + values.astype(">u2" if largest > 255 else "u1").tobytes())


def palette_image(values: numpy.ndarray, colors: numpy.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(colors.astype(numpy.uint8).tobytes())
    return image


def loaded(split: Split) -> list[numpy.ndarray]:
    return [split.load(index)[1] for index in range(len(split))]


def refused(root: Path, *words: str, **options: object) -> str:
    """The one line with which a data set is refused."""
    with pytest.raises(DatasetError) as caught:
        split = read_set(root, label_options(**options))  # type: ignore[arg-type]
        check_sense([split], label_options(**options))  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text


def as_dtype(dtype: str):  # type: ignore[no-untyped-def]
    def write(path: Path, values: numpy.ndarray) -> None:
        if path.suffix == ".npy":
            numpy.save(path, values.astype(dtype))
        else:
            Image.fromarray(values.astype(dtype)).save(path)

    return write
