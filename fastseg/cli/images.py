"""Finding photographs, and reading whatever Pillow reads as RGB."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy
from PIL import Image, ImageOps, UnidentifiedImageError

from .console import reason

# What folders are searched for; a file that is named itself is read whatever its suffix.
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageError(Exception):
    """An image that cannot be read; the message names the path and says why."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An image to read, and the name of its results: a relative path without suffix."""

    path: Path
    name: Path


def find_images(paths: Iterable[Path], without: Path) -> tuple[list[Source], list[str]]:
    """The images that files and folders name, each once, in the order given.

    Args:
        paths: files, and folders that are searched with their subfolders (hidden ones left out).
        without: a folder to leave out: results of an earlier run are no images.

    Returns:
        The images, whose names keep the subfolders and differ from each other; and one message per
        path that cannot be used.
    """
    sources: list[Source] = []
    problems: list[str] = []
    seen: set[Path] = set()
    names: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found = _images_below(path, without)
            if not found:
                problems.append(f"{path}: no images in this folder")
        else:
            found = [path]
        for file in found:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("")
            name = _unused(name, names)
            names.add(name)
            sources.append(Source(file, name))
    return sources, problems


def _images_below(folder: Path, without: Path) -> list[Path]:
    excluded = without.resolve()
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and excluded not in path.resolve().parents
    )


def _unused(name: Path, names: set[Path]) -> Path:
    candidate, number = name, 2
    while candidate in names:
        candidate, number = name.with_name(f"{name.name}_{number}"), number + 1
    return candidate


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
