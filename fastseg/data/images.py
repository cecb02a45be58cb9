"""Reading images: photographs as RGB, images of several bands as they are, always in 8 bits.

The rules are the same for training, evaluation and segmentation:

- An image is seen upright, as its EXIF data say (`orientation` turns its label map alike).
- Values of more than 8 bits become bytes by `as_bytes`, so that 12-bit photographs are not black.
- The size is checked before any pixel is decoded: at most `limits().pixels`, which `--max-pixels`
  sets.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from .._messages import reason
from . import arrays
from .arrays import ImageError, as_bytes, check_size

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

_PILLOWS_LIMIT = threading.Lock()


def read_image(path: str | os.PathLike[str], bands: int = 3) -> numpy.ndarray:
    """Reads an image as uint8 [H, W, bands], upright as its EXIF data say.

    A photograph (3 bands) is RGB: grey becomes RGB, and transparent pixels are shown on white. One
    band is grey. Of any other number the file must have exactly that many: a TIFF, a .npy array
    [H, W, bands] or [bands, H, W], or RGBA for 4. Values of more than 8 bits are scaled by
    `as_bytes`. Of animations the first frame is read.

    Args:
        path: of any format of Pillow, a TIFF of any bands and numbers, or a .npy array.
        bands: channels that the model takes, at least 1.

    Returns:
        uint8 array [H, W, bands].

    Raises:
        ImageError: there is no such file, it cannot be read as an image, it has other bands, or
            more pixels than allowed.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        return _bands_of(path, arrays.read_npy(path, bands), bands)
    try:
        with opened(path) as image:
            if not _needs_tifffile(image, bands):
                largest = _declared_largest(image)
                deep = _low_and_high_bytes(path, image) if _is_deep_png(image) else None
                image.load()
                with contextlib.suppress(Exception):  # damaged EXIF data must not lose the image
                    ImageOps.exif_transpose(image, in_place=True)
                if deep is not None:
                    return _bands_of(path, deep, bands)
                return _pillow_bands(path, image, bands, largest)
    except _Unidentified as error:
        if not arrays.is_tiff(path):
            raise ImageError(f"{path}: not an image, or of an unknown format") from error
    return _bands_of(path, arrays.read_tiff(path, bands), bands)


def image_bands(path: str | os.PathLike[str]) -> int:
    """The number of bands to read the images of a data set with, from one of them.

    Args:
        path: one of the images.

    Returns:
        3 for a photograph, also in grey or with transparency; for a TIFF or .npy array of 2, 4 or
        more bands their number.

    Raises:
        ImageError: as for `read_image`.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        found = arrays.npy_bands(path)
    elif arrays.is_tiff(path) and importlib.util.find_spec("tifffile") is not None:
        found = arrays.tiff_bands(path)
    else:
        with opened(path):
            found = 3
    return 3 if found == 1 else found


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
        raise _Unidentified(f"{path}: not an image, or of an unknown format") from None
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
    """Whether this is a PNG of several 16-bit channels, of which Pillow keeps the high bytes."""
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


def _bands_of(path: Path, values: numpy.ndarray, bands: int) -> numpy.ndarray:
    """Values [H, W, found], of any type, as bytes [H, W, bands].

    Raises:
        ImageError: the file has other bands.
    """
    found = values.shape[2]
    alpha = None
    if bands == 3 and found == 4 and path.suffix.lower() == ".png":
        alpha = as_bytes(values[..., 3:], 65535)
        values = values[..., :3]
    pixels = as_bytes(values)
    if alpha is not None:
        return _on_white(pixels, alpha)
    if pixels.shape[2] == bands:
        return numpy.ascontiguousarray(pixels)
    if bands == 3 and found == 1:
        return numpy.repeat(pixels, 3, axis=2)
    if bands == 1 and found in (3, 4):
        return numpy.asarray(Image.fromarray(pixels[..., :3]).convert("L"))[..., None]
    raise ImageError(f"{path}: has {found} bands, expected {bands} as the model takes")


def _on_white(pixels: numpy.ndarray, alpha: numpy.ndarray) -> numpy.ndarray:
    share = alpha.astype(numpy.float32) / 255
    return (pixels * share + 255 * (1 - share)).round().astype(numpy.uint8)


def _pillow_bands(path: Path, image: Image.Image, bands: int, largest: int | None) -> numpy.ndarray:
    if bands == 3:
        return numpy.array(_as_rgb(image, largest))
    if bands == 1:
        return numpy.array(_as_rgb(image, largest).convert("L"))[..., None]
    found = len(image.getbands())
    if found != bands:
        raise ImageError(f"{path}: has {found} bands, expected {bands} as the model takes")
    return numpy.array(image)


def _as_rgb(image: Image.Image, largest: int | None) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(as_bytes(numpy.asarray(image), largest)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
