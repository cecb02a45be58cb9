"""Reads the numbers or colours of a label file, without their meaning."""

from __future__ import annotations

import dataclasses
import math
import struct
import zipfile
from pathlib import Path
from typing import IO, Any, Protocol

import numpy
from PIL import Image

from .._messages import reason
from ..classes import Color
from .arrays import ImageError, check_size, is_tiff, read_tiff
from .images import opened, stored_orientation

# Lossless formats. Others are opened too, for a message that says why they are refused.
_LOSSLESS = ("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM", "TGA", "WEBP", "SGI", "PCX")
_LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")


@dataclasses.dataclass(frozen=True)
class LabelValues:
    """The contents of a label file.

    Attributes:
        numbers: integers [H, W]; None where the pixels have colours.
        colors: 0xRRGGBB of each pixel, int32 [H, W]; None where the file has numbers alone.
        palette: colours of the numbers, where the file has a palette.
        orientation: EXIF orientation that the file itself has; 1 is upright, or none.
    """

    numbers: numpy.ndarray | None
    colors: numpy.ndarray | None = None
    palette: tuple[Color, ...] | None = None
    orientation: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        pixels = self.numbers if self.numbers is not None else self.colors
        assert pixels is not None
        return pixels.shape[0], pixels.shape[1]


class LabelSource(Protocol):
    """Labels that lie in no file of their own."""

    def values(self) -> LabelValues: ...


def read_values(source: Path | LabelSource) -> LabelValues:
    """The numbers or colours of a label file, at the depth that it has.

    Palette images give their indices and palette, grey ones their values (those of 1, 2 and 4 bits
    unscaled), images of three equal channels the values of one. Alpha may be there if it hides
    nothing. A .npy file holds integers [H, W].

    Raises:
        ImageError: it cannot be read, is too large, lossy, or holds no labels.
    """
    if not isinstance(source, Path):
        return source.values()
    if source.suffix.lower() in (".npy", ".npz"):
        return LabelValues(_integers(source, read_array(source)))
    try:
        with opened(source) as image:
            _check_kind(source, image)
            rawmode, largest = _stored_form(image)
            orientation = stored_orientation(image)
            image.load()
            values = _values(source, image, rawmode, largest)
            return dataclasses.replace(values, orientation=orientation)
    except ImageError as error:
        if type(error) is not ImageError and is_tiff(source):  # of a kind that Pillow has not
            return LabelValues(_integers(source, read_tiff(source, 1).values))
        raise
    except MemoryError:
        raise ImageError(f"{source}: there is not enough memory to read it") from None


def color_code(color: Color) -> int:
    """A colour as 0xRRGGBB."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def _check_kind(path: Path, image: Image.Image) -> None:
    """Refuses files that cannot hold labels, before they are decoded."""
    if image.format not in (*_LOSSLESS, *_LOSSY):
        raise ImageError(f"{path}: {image.format} files hold no labels; save label maps as PNG")
    lossy = image.format in _LOSSY
    if image.format == "WEBP":
        lossy = not _webp_is_lossless(path)
    if image.format == "TIFF":
        lossy = "jpeg" in str(image.info.get("compression", ""))
    if lossy:
        raise ImageError(
            f"{path}: lossy {image.format} compression has changed labels along their borders; "
            "save label maps as PNG, from where they were drawn"
        )
    _check_single(path, image)


def _webp_is_lossless(path: Path) -> bool:
    """Whether the pictures of a WebP file are all in chunks VP8L."""
    kinds = set()
    with path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            kind, size = struct.unpack("<4sI", header)
            start = file.tell()
            if kind == b"ANMF":  # a frame: 16 bytes, then chunks
                file.seek(16, 1)
                continue
            kinds.add(kind)
            file.seek(start + size + size % 2)
    return b"VP8L" in kinds and b"VP8 " not in kinds


def _check_single(path: Path, image: Any) -> None:
    """A file may hold one picture, and smaller copies of it."""
    count = getattr(image, "n_frames", 1)
    if count == 1:
        return
    if image.format == "TIFF":
        image.seek(1)
        reduced = int(image.tag_v2.get(254, 0)) & 1
        image.seek(0)
        if reduced:
            return
    raise ImageError(f"{path}: holds {count} pictures, expected the labels of one")


def _stored_form(image: Any) -> tuple[str, int | None]:
    """How the file lays out a pixel ("L;4" is 4 bits of grey), and the value of white if it says.

    Pillow forgets both when it decodes, and has then scaled the values.
    """
    if not image.tile:
        return "", None
    arguments = image.tile[0][3]
    if not isinstance(arguments, tuple) or not arguments:
        arguments = (arguments, None)
    rawmode = arguments[0] if isinstance(arguments[0], str) else ""
    return rawmode, arguments[1] if image.format == "PPM" and len(arguments) > 1 else None


def _values(path: Path, image: Image.Image, rawmode: str, largest: int | None) -> LabelValues:
    mode, bands = image.mode, image.getbands()
    if len(bands) > 1 and ";16" in rawmode:
        raise ImageError(
            f"{path}: has {len(bands)} channels of 16 bits, expected colours of 8 bits or one "
            "channel"
        )
    pixels = numpy.asarray(image)
    if mode == "1":
        return LabelValues(pixels.astype(numpy.uint8))
    if mode in ("P", "PA"):
        return LabelValues(pixels if mode == "P" else pixels[..., 0], palette=_palette(image))
    if mode == "L" or mode in ("I", "F") or mode.startswith("I;16"):
        return LabelValues(_integers(path, _unscaled(image, pixels, rawmode, largest)))
    if mode not in ("LA", "RGB", "RGBA", "RGBX"):
        raise ImageError(f"{path}: an image of mode {mode} holds no labels: save it as PNG")
    if mode in ("LA", "RGBA") and (hidden := int((pixels[..., -1] != 255).sum())):
        raise ImageError(
            f"{path}: {hidden} pixels are transparent, and nothing says what they are; save it "
            "without transparency"
        )
    if mode == "LA":
        return LabelValues(pixels[..., 0])
    if mode != "RGBX" and largest not in (None, 255):
        raise ImageError(f"{path}: has colours of {largest + 1} steps, expected 256")  # type: ignore[operator]
    red, green, blue = (pixels[..., channel] for channel in range(3))
    grey = red if (red == green).all() and (red == blue).all() else None
    colors = red.astype(numpy.int32) << 16
    colors |= green.astype(numpy.int32) << 8
    colors |= blue
    return LabelValues(grey, colors)


def _unscaled(
    image: Image.Image, values: numpy.ndarray, rawmode: str, largest: int | None
) -> numpy.ndarray:
    """Numbers as the file has them.

    Pillow stretches 2 and 4 bits, and the values of PGM files, to the full range, and reads
    unsigned 32 bits as signed.
    """
    for prefix, step in (("L;2", 85), ("L;4", 17)):
        if rawmode.startswith(prefix):
            return values // step
    full = 255 if values.dtype == numpy.uint8 else 65535
    if largest not in (None, full):
        return (values.astype(numpy.int64) * largest + full // 2) // full  # type: ignore[operator]
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags and tags.get(339, (1,))[0] == 1:
        return values.astype(numpy.uint32)
    return values


def _palette(image: Image.Image) -> tuple[Color, ...] | None:
    values = image.getpalette("RGB")
    if not values:
        return None
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=False))


def _integers(path: Path, values: numpy.ndarray) -> numpy.ndarray:
    """Whole numbers [H, W]."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2 or values.size == 0:
        raise ImageError(f"{path}: an array of shape {values.shape}, expected labels [H, W]")
    if values.dtype.kind == "b":
        return values.astype(numpy.uint8)
    if values.dtype.kind == "f":
        whole = numpy.isfinite(values).all() and (values == numpy.floor(values)).all()
        if not whole or abs(values).max() > 2**53:
            raise ImageError(f"{path}: holds numbers with a fraction, expected whole ones")
        return values.astype(numpy.int64)
    if values.dtype.kind not in "iu":
        raise ImageError(f"{path}: an array of {values.dtype}, expected whole numbers")
    if values.dtype == numpy.uint64 and values.max() > numpy.iinfo(numpy.int64).max:
        raise ImageError(f"{path}: holds the label {values.max()}, which is too large")
    return values


def read_array(path: Path) -> numpy.ndarray:
    """The array of a .npy file, or of a .npz file with one; its size is checked first.

    Raises:
        ImageError: no array of numbers, a damaged file, or one that is too large.
    """
    try:
        if path.suffix.lower() == ".npz":
            return _only_member(path)
        with path.open("rb") as file:
            _check_header(path, file)
            file.seek(0)
            return numpy.load(file, allow_pickle=False)
    except ImageError:
        raise
    except (OSError, MemoryError) as error:
        raise ImageError(f"{path}: {reason(error)}") from error
    except Exception:  # most of numpy's own messages are about pickles
        raise ImageError(
            f"{path}: not an array of numbers that numpy.save has written, or damaged"
        ) from None


def _only_member(path: Path) -> numpy.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) != 1:
            shown = ", ".join(name.removesuffix(".npy") for name in names[:8]) or "none"
            raise ImageError(f"{path}: expected one array, it holds {len(names)} ({shown})")
        with archive.open(names[0]) as file:
            _check_header(path, file)
        with archive.open(names[0]) as file:
            return numpy.lib.format.read_array(file, allow_pickle=False)


def _check_header(path: Path, file: IO[bytes]) -> None:
    """Checks the header of a .npy file."""
    version = numpy.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    reader = {1: "read_array_header_1_0", 2: "read_array_header_2_0"}[version[0]]
    shape, _, dtype = getattr(numpy.lib.format, reader)(file)
    if dtype.hasobject:
        raise ValueError
    # Labels have one number a pixel, probabilities many.
    rows, *others = shape or (1,)
    check_size(path, rows, math.prod(others[:1]), math.prod(others[1:]))
