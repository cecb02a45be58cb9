"""Maps the numbers and colours of label files to classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy

from ..classes import ClassSet
from .arrays import ImageError, is_tiff, tiff_orientation
from .images import opened, stored_orientation
from .label_files import LabelSource, LabelValues, read_values
from .orientation import as_its_image, sizes_differ, upright

IGNORE = 255  # stands for void in the class maps that training and evaluation see
_UNKNOWN = -1
_TABLE = 65536  # numbers below this are looked up, larger ones searched


class DatasetError(Exception):
    """A data set that cannot be used as it is; the message names the file and says why."""


@dataclasses.dataclass(frozen=True)
class Labelling:
    """The classes of a data set, and their numbers or colours in its label files.

    Attributes:
        classes: names and colours.
        numbers: class, or IGNORE, of each number that label files may hold.
        colors: class, or IGNORE, of each colour 0xRRGGBB; None where the numbers count, which for
            palette files are the indices.
        origin: where this is known from, for people to read.
        drawn: whether labels of a photograph with an EXIF orientation were drawn on its "stored"
            pixels, where these have their size, or always on the "upright" picture.
    """

    classes: ClassSet
    numbers: Mapping[int, int]
    colors: Mapping[int, int] | None
    origin: str
    drawn: str = "stored"

    @property
    def void(self) -> list[int]:
        """Numbers that mean no class."""
        return sorted(number for number, index in self.numbers.items() if index == IGNORE)

    def read(self, label: Path | LabelSource, photo: Path, size: tuple[int, int]) -> numpy.ndarray:
        """The classes, uint8 [H, W], of the pixels of a photograph as it is seen, upright.

        Args:
            label: its label file. photo: its file, which knows its EXIF orientation.
            size: height and width of the photograph as it is seen; other labels are refused.

        Raises:
            ImageError: the file cannot be read, has another size, or labels that mean nothing.
        """
        values = read_values(label)
        seen = upright(self.indices(label, values), values.orientation)
        on_stored = self.drawn == "stored" and isinstance(label, Path)
        classes = as_its_image(
            seen, size, orientation_of(photo) if on_stored else 1, values.orientation
        )
        if classes is None:
            shape, of_photo = (seen.shape[0], seen.shape[1]), orientation_of(photo)
            raise ImageError(sizes_differ(str(label), shape, photo.name, size, of_photo))
        return numpy.ascontiguousarray(classes)

    def indices(self, label: Path | LabelSource, values: LabelValues) -> numpy.ndarray:
        """The classes, uint8 [H, W], of a label file's values, not turned.

        Raises:
            ImageError: a number or colour means nothing.
        """
        if self.colors is not None:
            found, meaning = as_colors(values), self.colors
        elif values.numbers is not None:
            found, meaning = values.numbers, self.numbers
        else:
            raise ImageError(
                f"{label}: has colours, while the label files looked at first have numbers"
            )
        indices = _looked_up(found, meaning)
        unknown = indices == _UNKNOWN
        if unknown.any():
            raise ImageError(f"{label}: {self._about_unknown(found[unknown])}")
        return indices.astype(numpy.uint8)

    def _about_unknown(self, found: numpy.ndarray) -> str:
        number = int(found.max() if found.max() >= 0 else found.min())
        count = int((found == number).sum())
        if self.colors is not None:
            return (
                f"holds the colour #{number:06x} ({count} pixels), which is none of the "
                f"{len(self.colors)} of {self.origin}"
            )
        void = ", ".join(map(str, self.void)) or "none"
        names = len(self.classes)
        return (
            f"holds the label {number} ({count} pixels); there are {names} classes (0 to "
            f"{names - 1}) and void ({void}), from {self.origin}; --void {number} leaves it out, "
            f"--label-map {number}=... gives it a class"
        )


def as_colors(values: LabelValues) -> numpy.ndarray:
    """0xRRGGBB of each pixel; numbers without palette are grey."""
    if values.colors is not None:
        return values.colors
    assert values.numbers is not None
    if values.palette is None:
        numbers = values.numbers.astype(numpy.int64)
        grey = numbers * 0x010101
        return numpy.where((numbers >= 0) & (numbers < 256), grey, -1 - abs(numbers))
    table = numpy.full(_TABLE, -1, dtype=numpy.int64)
    table[: len(values.palette)] = [r << 16 | g << 8 | b for r, g, b in values.palette]
    return table[values.numbers]


def _looked_up(found: numpy.ndarray, meaning: Mapping[int, int]) -> numpy.ndarray:
    """int16 [H, W]: what each value means, _UNKNOWN where it means nothing."""
    low, high = int(found.min()), int(found.max())
    if low >= 0 and high < _TABLE:
        table = numpy.full(high + 1, _UNKNOWN, dtype=numpy.int16)
        for value, index in meaning.items():
            if 0 <= value <= high:
                table[value] = index
        return table[found]
    if not meaning:
        return numpy.full(found.shape, _UNKNOWN, dtype=numpy.int16)
    keys = numpy.array(sorted(meaning), dtype=numpy.int64)
    indices = numpy.array([meaning[int(key)] for key in keys], dtype=numpy.int16)
    places = numpy.minimum(numpy.searchsorted(keys, found), len(keys) - 1)
    return numpy.where(keys[places] == found, indices[places], numpy.int16(_UNKNOWN))


def orientation_of(photo: Path) -> int:
    """The EXIF orientation of an image file, 1 where it has none."""
    if photo.suffix.lower() == ".npy":
        return 1
    try:
        with opened(photo) as image:
            return stored_orientation(image)
    except ImageError:
        if is_tiff(photo):  # of bands that Pillow has not
            return tiff_orientation(photo)
        raise
