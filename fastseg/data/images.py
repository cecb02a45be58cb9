"""Reading whatever Pillow reads, as RGB."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from .._messages import reason

# What folders are searched for; a file that is named itself is read whatever its suffix.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageError(Exception):
    """An image that cannot be read; the message names the path and says why."""


def read_image(path: Path) -> numpy.ndarray:
    """A photograph as people see it: RGB uint8 [H, W, 3], upright as its EXIF data say.

    Transparent pixels are shown on white, 16-bit values scaled to 8 bits, other numbers (32-bit
    integers, floats) stretched from their smallest to their largest; of animations the first frame.

    Raises:
        ImageError: there is no such file, or it cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            with contextlib.suppress(Exception):  # damaged EXIF data must not lose the image
                ImageOps.exif_transpose(image, in_place=True)
            return numpy.array(_as_rgb(image))
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or of an unknown format") from None
    except Exception as error:  # the readers let nearly every type through on broken files
        raise ImageError(f"{path}: {reason(error)}") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((numpy.asarray(image) / 257.0).round().astype("uint8")).convert(
            "RGB"
        )
    if image.mode in ("I", "F"):
        values = numpy.nan_to_num(numpy.asarray(image, dtype="float64"))
        span = numpy.ptp(values) or 1.0
        stretched = (values - values.min()) * (255.0 / span)
        return Image.fromarray(stretched.round().astype("uint8")).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
