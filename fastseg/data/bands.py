"""Which bands of a file a model is given, where the file has others than the model takes.

The number of bands that a model takes is always given as it is stored. Else a photograph, of grey
or of red, green and blue, is turned into what the model takes: grey is repeated, colours become
grey, what lies beyond the colours is left out. Bands of no known meaning are refused, for any
choice of three of them would be a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy
from PIL import Image

from .arrays import GREY, RGB, UNKNOWN, ImageError, Stored, as_bytes

# Told, once per file, what of it the model is not given.
Note = Callable[[str], None]

ON_WHITE = "transparent pixels are shown on white"


def fitted(path: Path, stored: Stored, bands: int, note: Note | None = None) -> numpy.ndarray:
    """The pixels uint8 [H, W, bands] that a model of so many bands is given.

    Raises:
        ImageError: the file has other bands, of which nobody knows which are the model's.
    """
    found = stored.values.shape[2]
    if found == bands:
        return numpy.ascontiguousarray(as_bytes(stored.values))
    if bands not in (GREY, RGB) or stored.colors == UNKNOWN:
        raise other_bands(path, found, bands, stored.colors)
    pixels = as_bytes(stored.values[..., : stored.colors])
    if stored.opacity is not None:
        pixels = _on_white(pixels, stored.opacity)
        if note is not None and stored.opacity.min() < 1:
            note(ON_WHITE)
    elif found > stored.colors and note is not None:
        note(left_out(stored.colors, found))
    if bands == GREY:
        return as_grey(pixels)
    return numpy.repeat(pixels, 3, axis=2) if stored.colors == GREY else pixels


def as_grey(pixels: numpy.ndarray) -> numpy.ndarray:
    """Bytes [H, W, 1 or 3] as [H, W, 1]."""
    if pixels.shape[2] == 1:
        return pixels
    return numpy.asarray(Image.fromarray(pixels).convert("L"))[..., None]


def other_bands(path: Path, found: int, bands: int, colors: int) -> ImageError:
    """The error about a file of other bands than the model takes."""
    has = f"{found} band{'s' if found != 1 else ''}"
    unknown = ""
    if bands in (GREY, RGB) and colors == UNKNOWN:
        unknown = "; nothing in the file says which of them are colours"
    return ImageError(f"{path}: has {has}, expected {bands} as the model takes{unknown}")


def left_out(colors: int, found: int) -> str:
    """What is said of a file with bands beyond its colours."""
    first, kept = colors + 1, "the grey one" if colors == GREY else "red, green and blue"
    which = f"band {first}" if found == first else f"bands {first} to {found}"
    return f"{which} beyond {kept} left out"


def noted(notes: Mapping[str, int], images: int) -> list[str]:
    """Lines about how many images of a run a model was not given as they are."""
    return [f"{what} ({count} of {images} images)" for what, count in notes.items()]


def _on_white(pixels: numpy.ndarray, opacity: numpy.ndarray) -> numpy.ndarray:
    return (pixels * opacity + 255 * (1 - opacity)).round().astype(numpy.uint8)
