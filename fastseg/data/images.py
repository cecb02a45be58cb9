"""Reading images: photographs as RGB, images of several bands as they are, always in 8 bits.

The rules are the same for training, evaluation and segmentation:

- An image is seen upright, as its EXIF data say (`orientation` turns its label map alike).
- Values of more than 8 bits become bytes by `as_bytes`, so that 12-bit photographs are not black.
- The size is checked before any pixel is decoded: at most `limits().pixels`, which `--max-pixels`
  sets.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from .._files import in_its_place
from .._messages import reason
from . import arrays
from .arrays import GREY, RGB, UNKNOWN, ImageError, Stored, as_bytes, check_size
from .bands import ON_WHITE, Note, fitted, left_out, other_bands

__all__ = [
    "SUFFIXES",
    "ImageError",
    "image_bands",
    "opened",
    "read_image",
    "stored_orientation",
    "viewable",
]

# Suffixes that folders are searched for; a file given by name may have any.
SUFFIXES = (
    ".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".npy", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)  # fmt: skip

_ORIENTATION = 0x0112  # of EXIF and TIFF
_BITS, _SAMPLES, _SAMPLE_FORMAT, _LARGEST_VALUE = 258, 277, 339, 281  # of TIFF
_EXTRA_SAMPLES = 338
_SIGNED = 2
_ASSOCIATED = 1

_UNKNOWN = "not an image, or of an unknown format"
_PILLOWS_LIMIT = threading.Lock()


def read_image(
    path: str | os.PathLike[str], bands: int = 3, note: Note | None = None
) -> numpy.ndarray:
    """Reads an image as uint8 [H, W, bands], upright as its EXIF data say.

    A file of exactly `bands` bands is read as it is: a TIFF, a .npy array [H, W, bands] or
    [bands, H, W], RGBA for 4. Else 3 bands are a photograph in RGB (grey becomes RGB) and one band
    is grey. Transparent pixels are then shown on white, and what a TIFF has beyond its colours,
    infrared perhaps, is left out; a file that does not say which bands are colours is refused.
    Values of more than 8 bits are scaled by `as_bytes`. Of animations the first frame is read.

    Args:
        path: of any format of Pillow, a TIFF of any bands and numbers, or a .npy array.
        bands: channels that the model takes, at least 1.
        note: called with a few words about what the model is not given: transparency, bands.

    Returns:
        uint8 array [H, W, bands].

    Raises:
        ImageError: there is no such file, it cannot be read as an image, it has other bands, or
            more pixels than allowed.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return fitted(path, arrays.read_npy(path, bands), bands, note)
    try:
        with opened(path) as image:
            if not _needs_tifffile(image, bands):
                largest = _declared_largest(image)
                bands_beyond = _beyond(image)
                deep = _low_and_high_bytes(path, image) if _is_deep_png(image) else None
                image.load()
                with contextlib.suppress(Exception):  # damaged EXIF data must not lose the image
                    ImageOps.exif_transpose(image, in_place=True)
                if deep is not None:
                    return fitted(path, _of_deep_png(deep), bands, note)
                return _pillow_bands(path, image, bands, largest, bands_beyond, note)
    except _Unidentified as error:
        if not arrays.is_tiff(path):
            raise ImageError(f"{path}: {_UNKNOWN}{in_its_place(path)}") from error
    return fitted(path, arrays.read_tiff(path, bands), bands, note)


def image_bands(path: str | os.PathLike[str]) -> int:
    """The number of bands to read the images of a data set with, from one of them.

    Args:
        path: one of the images.

    Returns:
        3 for a photograph, also in grey, in CMYK or with transparency; for a TIFF or .npy array of
        2, 4 or more bands their number.

    Raises:
        ImageError: as for `read_image`.
    """
    path = Path(path)
    found: int | None
    if path.suffix.lower() == ".npy":
        found = arrays.npy_bands(path)
    else:
        found = _tiff_bands(path) if arrays.is_tiff(path) else None
        if found is None:
            with opened(path):
                found = 3
    return 3 if found == 1 else found


def _tiff_bands(path: Path) -> int | None:
    """The bands of a TIFF; None: it is a photograph, whatever its bands."""
    with contextlib.suppress(_Unidentified), opened(path) as image:
        if image.mode in ("CMYK", "YCbCr", "LAB"):
            return None
        if not _is_stack(image):
            return int(image.getexif().get(_SAMPLES, 1))
    return arrays.tiff_bands(path)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file; its size is checked, and its pixels are not decoded yet.

    Whatever fails in the block, for the readers let nearly every type of exception through on
    damaged files, becomes an ImageError that names the file.

    Raises:
        ImageError: there is no such file, it is damaged, of no known format, or too large.
    """
    try:
        with _unchecked(path) as image:
            check_size(path, image.height, image.width)
            yield image
    except UnidentifiedImageError:
        raise _Unidentified(f"{path}: {_UNKNOWN}{in_its_place(path)}") from None
    except ImageError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError(f"{path}: {reason(error)}") from error


def _unchecked(path: Path) -> Image.Image:
    """Image.open without Pillow's own limit, which has no other switch: ours is checked after."""
    with _PILLOWS_LIMIT:
        pillows = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = pillows


class _Unidentified(ImageError):
    """Pillow does not know the format."""


def stored_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of an image of `opened`; ask before its pixels are decoded."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF data are none
        return 1
    return value if value in range(1, 9) else 1


def viewable(image: numpy.ndarray) -> numpy.ndarray:
    """The RGB picture [H, W, 3] to show of an image [H, W, bands].

    The first three bands; of fewer the first as grey.
    """
    if image.shape[2] >= 3:
        return image[..., :3]
    return numpy.repeat(image[..., :1], 3, axis=2)


def _needs_tifffile(image: Image.Image, bands: int) -> bool:
    """Whether Pillow would lose bits, signs or bands of a TIFF."""
    if image.format != "TIFF":
        return False
    if _is_stack(image):
        return True
    tags = image.getexif()
    samples = tags.get(_SAMPLES, 1)
    bits = _first(tags.get(_BITS, 1))
    if bits > 8:
        return samples > 1 or bands not in (1, 3)
    if _first(tags.get(_SAMPLE_FORMAT, 1)) == _SIGNED:
        return True
    if bands in (1, 3):
        return samples > 4
    # Pillow divides colours by an associated opacity.
    associated = _first(tags.get(_EXTRA_SAMPLES, 0)) == _ASSOCIATED
    return associated or bands != len(image.getbands())


def _is_stack(image: Any) -> bool:
    """Whether a TIFF holds its bands as grey pages of one size."""
    if len(image.getbands()) > 1 or image.mode == "P" or getattr(image, "n_frames", 1) == 1:
        return False
    size = image.size
    try:
        image.seek(1)
        return image.size == size and len(image.getbands()) == 1
    finally:
        image.seek(0)


def _beyond(image: Image.Image) -> str | None:
    """What to say of the bands of a TIFF beyond its colours; "" if none is known to be a colour.

    The opacity of a TIFF is left out as well: programs call the fourth band of any image so. What
    its colours were multiplied by is one in truth.
    """
    if image.format != "TIFF":
        return None
    tags = image.getexif()
    samples, extra = int(tags.get(_SAMPLES, 1)), _first(tags.get(_EXTRA_SAMPLES, 0))
    if extra == _ASSOCIATED:
        return None
    if image.mode in ("RGB", "RGBA", "RGBX") and samples > RGB:
        return left_out(RGB, samples)
    if image.mode in ("L", "LA") and samples > 1:
        return left_out(GREY, samples) if extra else ""
    return None


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def _declared_largest(image: Image.Image) -> int | None:
    """The value of white, where a TIFF declares it; Pillow forgets it when it decodes."""
    if image.format != "TIFF":
        return None
    tags = image.getexif()
    if _LARGEST_VALUE in tags:
        return _first(tags[_LARGEST_VALUE])
    bits = _first(tags.get(_BITS, 8))
    return 2**bits - 1 if 8 < bits < 16 else None


def _is_deep_png(image: Image.Image) -> bool:
    """Whether this is a PNG of several 16-bit channels: Pillow keeps their high bytes alone."""
    return (
        image.format == "PNG"
        and image.mode in ("RGB", "RGBA")
        and all(tile[3] in ("RGB;16B", "RGBA;16B") for tile in image.tile)  # type: ignore[attr-defined]
    )


def _low_and_high_bytes(path: Path, image: Image.Image) -> numpy.ndarray:
    """The values uint16 [H, W, 3 or 4], upright, of such a PNG.

    Pillow has no mode for them. It is asked twice: for the high bytes, as usual, and, by the
    byte order turned round, for the low ones.
    """
    parts = []
    for order in ("B", "L"):
        with _unchecked(path) as part:
            part.tile = [  # type: ignore[attr-defined]
                (tile[0], tile[1], tile[2], f"{part.mode};16{order}")
                for tile in part.tile  # type: ignore[attr-defined]
            ]
            part.load()
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(part, in_place=True)
            parts.append(numpy.asarray(part).astype(numpy.uint16))
    return parts[0] * numpy.uint16(256) + parts[1]


def _of_deep_png(values: numpy.ndarray) -> Stored:
    if values.shape[2] == RGB:
        return Stored(values, RGB)
    return Stored(values, RGB, values[..., RGB:].astype(numpy.float32) / 65535)


def _pillow_bands(
    path: Path,
    image: Image.Image,
    bands: int,
    largest: int | None,
    beyond: str | None,
    note: Note | None,
) -> numpy.ndarray:
    found = len(image.getbands()) if beyond != "" else 2
    if bands not in (GREY, RGB) or (beyond == "" and found != bands):
        if image.mode == "CMYK":  # inks of a photograph, not bands
            found = RGB
        if found != bands:
            raise other_bands(path, found, bands, UNKNOWN if beyond == "" else RGB)
        return numpy.array(image)
    if beyond:
        image = image.convert("L" if image.mode == "LA" else "RGB")
        if note is not None:
            note(beyond)
    image = _as_rgb(image, largest, note)
    return numpy.array(image) if bands == RGB else numpy.array(image.convert("L"))[..., None]


def _as_rgb(image: Image.Image, largest: int | None, note: Note | None) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(as_bytes(numpy.asarray(image), largest)).convert("RGB")
    if image.has_transparency_data:
        if image.mode == "La":  # which Pillow converts to no colours
            image = image.convert("LA")
        image = image.convert("RGBA")
        if note is not None and image.getchannel("A").getextrema()[0] != 255:
            note(ON_WHITE)
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
