"""Counts the labels in the files of a data set, and their pixels."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy

from ..classes import Color
from .arrays import ImageError
from .label_files import LabelSource, LabelValues, color_code, read_values
from .labelling import DatasetError
from .threads import in_order

_MOST = 65536  # different labels of one file; more are a photograph, or a picture of depths
_CHUNK = 1 << 22
# White of 8 and of 16 bits, which is the foreground where no label is but it and 0.
WHITES = (255, 65535)


@dataclasses.dataclass
class Survey:
    """The labels found in some label files.

    Attributes:
        files: how many were looked at.
        numbers: pixels of each number; None as soon as one file has colours alone.
        colors: pixels of each colour 0xRRGGBB; numbers beyond 8 bits have none, and are -1.
        colored: the first file whose channels differ.
        palette: of the first palette file.
        paletted: whether any file has a palette.
        channelled: whether any file has red, green and blue, perhaps all the same.
        indices: of palette files: colour of each index that is used, and the first file with it.
        clash: of each used index that two palettes give different colours, that in words.
        with_one, with_white: the first file whose only labels beside 0 are 1, or the white of 8 or
            16 bits.
        beside: whether a file has both 1 and a white.
    """

    files: int = 0
    numbers: Counter[int] | None = dataclasses.field(default_factory=Counter)
    colors: Counter[int] = dataclasses.field(default_factory=Counter)
    colored: Path | LabelSource | None = None
    palette: tuple[Color, ...] | None = None
    paletted: bool = False
    channelled: bool = False
    indices: dict[int, tuple[Color, Path | LabelSource]] = dataclasses.field(default_factory=dict)
    clash: dict[int, str] = dataclasses.field(default_factory=dict)
    with_one: Path | LabelSource | None = None
    with_white: Path | LabelSource | None = None
    beside: bool = False

    def add(self, source: Path | LabelSource, found: FileLabels) -> None:
        self.files += 1
        self.colors += found.colors
        self.channelled |= found.channelled
        if found.numbers is None:
            self.colored, self.numbers = self.colored or source, None
        elif self.numbers is not None:
            self.numbers += found.numbers
        if found.palette is not None:
            self.palette, self.paletted = self.palette or found.palette, True
            self._compare(source, found.palette, found.numbers or ())
        if found.numbers is not None:
            self._look_for_white(source, set(found.numbers))

    def _compare(
        self, source: Path | LabelSource, palette: tuple[Color, ...], used: Iterable[int]
    ) -> None:
        for index in used:
            if index >= len(palette):
                continue
            color, first = self.indices.setdefault(index, (palette[index], source))
            if color != palette[index]:
                self.clash.setdefault(
                    index,
                    f"the index {index} is #{color_code(color):06x} in {first} and "
                    f"#{color_code(palette[index]):06x} in {source}",
                )

    def _look_for_white(self, source: Path | LabelSource, labels: set[int]) -> None:
        others, white = labels - {0}, labels & {*WHITES}
        if others == {1}:
            self.with_one = self.with_one or source
        elif len(others) == 1 and white:
            self.with_white = self.with_white or source
        self.beside |= 1 in labels and bool(white)


@dataclasses.dataclass(frozen=True)
class FileLabels:
    """The same of one file."""

    numbers: Counter[int] | None
    colors: Counter[int]
    palette: tuple[Color, ...] | None
    channelled: bool = False


def survey(
    sources: Iterable[Path | LabelSource],
    *,
    threads: int = 1,
    enough: Callable[[Survey], bool] = lambda _: False,
) -> Survey:
    """Counts the labels of files, one after the other, until it is enough.

    Raises:
        DatasetError: a file cannot be read, or holds too many different labels.
    """
    result = Survey()
    try:
        for source, found in in_order(_labels_of, sources, max(1, threads)):
            result.add(source, found)
            if enough(result):
                break
    except ImageError as error:
        raise DatasetError(str(error)) from error
    return result


def _labels_of(source: Path | LabelSource) -> tuple[Path | LabelSource, FileLabels]:
    return source, file_labels(source, read_values(source))


def file_labels(source: Path | LabelSource, values: LabelValues) -> FileLabels:
    """Counts the labels of one file.

    Raises:
        ImageError: it holds too many different ones.
    """
    if values.colors is not None and values.numbers is None:
        return FileLabels(None, _counted(source, values.colors), None, True)
    assert values.numbers is not None
    numbers = _counted(source, values.numbers)
    colors: Counter[int] = Counter()
    for number, count in numbers.items():
        colors[_color_of(number, values.palette)] += count
    return FileLabels(numbers, colors, values.palette, values.colors is not None)


def _color_of(number: int, palette: tuple[Color, ...] | None) -> int:
    if palette is None:
        return number * 0x010101 if 0 <= number < 256 else -1
    return color_code(palette[number]) if number < len(palette) else -1


def _counted(source: Path | LabelSource, values: numpy.ndarray) -> Counter[int]:
    if values.dtype in (numpy.uint8, numpy.uint16):
        counts = numpy.bincount(values.ravel())
        present = numpy.flatnonzero(counts)
        return Counter(dict(zip(present.tolist(), counts[present].tolist(), strict=True)))
    result: Counter[int] = Counter()
    flat = values.ravel()
    for start in range(0, flat.size, _CHUNK):
        found, counts = numpy.unique(flat[start : start + _CHUNK], return_counts=True)
        result.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        if len(result) > _MOST:
            raise ImageError(
                f"{source}: more than {_MOST} different labels or colours: this is no label map"
            )
    return result
