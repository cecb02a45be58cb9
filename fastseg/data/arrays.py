"""Reads images that Pillow has no mode for: .npy arrays, TIFFs of any bands and numbers."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy

from .._messages import reason
from ..limits import limits
from .orientation import upright

# Bits of the sensors that 16-bit files come from; the values rarely say which.
_SENSOR_BITS = (8, 10, 12, 14, 16)
# Bands up to which an image counts as one of so many pixels for the limit; more count as more.
_BANDS_OF_A_PIXEL = 4

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB_COLORS = 0, 1, 2  # photometric interpretations of TIFF
_ASSOCIATED = 1  # kind of an extra sample of TIFF: opacity that multiplied the colours
_DECLARED = (1, 2)

# What the first bands of a file are.
GREY, RGB, UNKNOWN = 1, 3, 0


@dataclasses.dataclass(frozen=True)
class Stored:
    """The pixels of a file.

    Attributes:
        values: [H, W, n], of any type of number.
        colors: what the first bands are: GREY (one), RGB (three) or UNKNOWN.
        opacity: that of each pixel, float32 [H, W, 1] from 0 to 1, if the pixels are to be seen
            through.
    """

    values: numpy.ndarray
    colors: int
    opacity: numpy.ndarray | None = None


class ImageError(Exception):
    """An image that cannot be read; the message names the path and says why."""


def check_size(path: Path, height: int, width: int, bands: int = 1) -> None:
    """Refuses an image of more pixels than `limits().pixels` before it is decoded.

    Raises:
        ImageError: it has more.
    """
    allowed = limits().pixels
    if height * width * max(1, -(-bands // _BANDS_OF_A_PIXEL)) > allowed:
        of_bands = f" of {bands} bands" if bands > _BANDS_OF_A_PIXEL else ""
        raise ImageError(
            f"{path}: has {width} x {height} pixels{of_bands}, allowed are {allowed}; the limit "
            "can be raised (--max-pixels, or fastseg.use_limits(pixels=...))"
        )


def as_bytes(values: numpy.ndarray, largest: int | None = None) -> numpy.ndarray:
    """Scales values of any type to bytes.

    - 8 bits are kept; False and True become 0 and 255.
    - Integers from 0 to 65535 are scaled by the bits of their sensor: by `largest`, where the file
      declares it, else by the smallest of 8, 10, 12, 14 and 16 bits that holds the largest of the
      values. So 0 stays 0, a 12-bit photograph in a 16-bit file is not black, a full 16-bit one
      keeps its brightness, and so does a dark one of the same sensor as long as its brightest
      pixel is above a quarter of white.
    - Other numbers (negative ones, larger ones, floats) are stretched from their smallest to their
      largest, over all bands together; what is not finite becomes 0.
    """
    if values.dtype == numpy.uint8:
        return values
    if values.dtype == bool:
        return values.astype(numpy.uint8) * 255
    if values.dtype.kind in "iu" and values.min(initial=0) >= 0 and values.max(initial=0) < 2**16:
        top = int(values.max(initial=0))
        if largest is None or largest < top:
            largest = next(2**bits - 1 for bits in _SENSOR_BITS if top < 2**bits)
        if largest == 255:
            return values.astype(numpy.uint8)
        # A table is exact and quicker than a division of every value.
        table = (numpy.arange(top + 1) * (255.0 / largest)).round().astype(numpy.uint8)
        return table[values]
    finite = numpy.isfinite(values)
    known = values[finite] if not finite.all() else values
    if known.size == 0:
        return numpy.zeros(values.shape, numpy.uint8)
    # Halves: the span of two float64 may be no float64.
    low, high = float(known.min()) / 2, float(known.max()) / 2
    halves = numpy.where(finite, values, 2 * low).astype(numpy.float64) / 2
    return ((halves - low) * (255.0 / ((high - low) or 1.0))).round().astype(numpy.uint8)


def read_npy(path: Path, bands: int) -> Stored:
    """The pixels of a .npy file that holds [H, W], [H, W, bands] or [bands, H, W].

    One band is grey, three are red, green and blue.

    Raises:
        ImageError: the file holds no such array of numbers, or is damaged.
    """
    array = _bands_last(path, _mapped(path), bands)
    check_size(path, *array.shape)
    found = array.shape[2]
    return Stored(numpy.array(array), found if found in (GREY, RGB) else UNKNOWN)


def npy_bands(path: Path) -> int:
    """The number of bands of a .npy file."""
    return _bands_last(path, _mapped(path), None).shape[2]


def _mapped(path: Path) -> numpy.ndarray:
    """The array of a .npy file; only its header is read yet."""
    try:
        array = numpy.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, MemoryError) as error:
        raise ImageError(f"{path}: {reason(error)}") from error
    # numpy lets the errors of its parser through; most of its own messages are about pickles.
    except Exception:
        raise ImageError(
            f"{path}: not an array of numbers that numpy.save has written, or damaged"
        ) from None
    return array


def _bands_last(path: Path, array: numpy.ndarray, bands: int | None) -> numpy.ndarray:
    """An image of two or three dimensions as [H, W, bands].

    The bands are the last dimension or the first: that of `bands`, else the smaller of the two.
    """
    if array.dtype.kind not in "biuf":
        raise ImageError(f"{path}: holds {array.dtype}, expected numbers")
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ImageError(
            f"{path}: shape {array.shape}, expected [H, W], [H, W, bands] or [bands, H, W]"
        )
    if array.ndim == 2:
        return array[..., None]
    first, last = array.shape[0], array.shape[2]
    if last == bands or (first != bands and last <= first):
        return array
    return array.transpose(1, 2, 0)


def is_tiff(path: Path) -> bool:
    """Whether a file begins as a TIFF does."""
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError:
        return False


def read_tiff(path: Path, bands: int) -> Stored:
    """The pixels of a TIFF of any bands and numbers, upright. Bands may be pages of their own.

    Raises:
        ImageError: tifffile is not installed, the file is damaged, compressed in a way that needs
            more than tifffile, or too large.
    """
    with _Tiff(path) as tiff:
        return tiff.values(bands)


def tiff_bands(path: Path) -> int:
    """The number of bands of a TIFF, whatever they mean."""
    with _Tiff(path) as tiff:
        return tiff.shape(None)[2]


def tiff_orientation(path: Path) -> int:
    """The orientation, 1 to 8, of a TIFF that Pillow may not know."""
    with _Tiff(path) as tiff:
        return tiff.orientation


class _Tiff:
    """A TIFF opened with tifffile, whose errors become ImageError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Tiff:
        try:
            import tifffile
        except ImportError:
            raise ImageError(
                f"{self.path}: TIFFs of several bands or of more than 8 bits need tifffile: "
                "pip install 'fastseg-kernels[tiff]'"
            ) from None
        # What it has to say about damaged files belongs into one line, the ImageError's.
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
        try:
            self._file: Any = tifffile.TiffFile(self.path)
            series = self._file.series[0]
            self._page: Any = series.pages[0]
            # Of a sequence of images the first.
            self._source: Any = series if len(series.shape) <= 3 else self._page
        except Exception as error:
            raise ImageError(f"{self.path}: {reason(error)}") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def shape(self, bands: int | None) -> tuple[int, int, int]:
        """Height, width and bands."""
        # An array without memory, to which the same rule applies as to the real one.
        likeness = numpy.broadcast_to(numpy.zeros(1, self._source.dtype), self._source.shape)
        height, width, found = _bands_last(self.path, likeness, bands).shape
        return height, width, found

    def values(self, bands: int) -> Stored:
        """The pixels, upright."""
        check_size(self.path, *self.shape(bands))
        try:
            stored = self._source.asarray()
        except MemoryError:
            raise
        except Exception as error:
            hint = ": pip install imagecodecs" if "imagecodecs" in str(error) else ""
            raise ImageError(f"{self.path}: {reason(error)}{hint}") from error
        values = upright(_bands_last(self.path, stored, bands), self.orientation)
        colors = self._colors(values.shape[2])
        # Programs call the fourth band of any image its opacity, infrared too; one that has
        # multiplied the colours is it in truth.
        extra = self._page.extrasamples
        if colors == UNKNOWN or not extra or int(extra[0]) != _ASSOCIATED:
            return Stored(values, colors)
        return _undone(values, colors)

    def _colors(self, found: int) -> int:
        photometric, samples = self._page.photometric, self._page.samplesperpixel
        if found == GREY:
            return GREY
        if photometric == _RGB_COLORS and samples == found:
            return RGB
        extra = self._page.extrasamples
        grey = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO) and samples == found == 2
        return GREY if grey and extra and int(extra[0]) in _DECLARED else UNKNOWN

    @property
    def orientation(self) -> int:
        tag = self._page.tags.get("Orientation")
        return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _undone(values: numpy.ndarray, colors: int) -> Stored:
    """Divides colours by the opacity that they were multiplied by."""
    white = numpy.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    share = values[..., colors : colors + 1].astype(numpy.float32) / float(white)
    opacity = numpy.nan_to_num(share).clip(0, 1)
    seen = values[..., :colors] / numpy.maximum(opacity, 1e-6)
    seen = seen.clip(0, float(white)) if values.dtype.kind in "iu" else seen
    result = values.copy()
    result[..., :colors] = seen.round() if values.dtype.kind in "iu" else seen
    return Stored(result, colors, opacity)
