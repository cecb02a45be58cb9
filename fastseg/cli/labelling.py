"""Reading what `fastseg crf` refines: a label map, or the probabilities of the labels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy

from ..classes import ClassSet, bright_colors, numbered_classes
from ..data.images import ImageError
from ..data.label_files import LabelValues, read_array, read_values
from ..data.label_options import LabelOptions
from ..data.labelling import IGNORE, DatasetError, as_colors, orientation_of
from ..data.layouts.known import palette_of
from ..data.meaning import binary_classes, foreground_label
from ..data.orientation import as_its_image, sizes_differ, upright

_LARGEST_LABEL = 65535
_MOST_LABELS = 255
_ARRAYS = (".npy", ".npz")


class LabellingError(Exception):
    """A file that holds no labelling; the message names the path and says why."""


@dataclasses.dataclass(frozen=True)
class GivenLabels:
    """Labels of a photograph.

    Attributes:
        labels: [H, W], at least 0 except where `unknown`.
        unknown: the label of unlabelled pixels; -1 if there are none.
        classes: names and colours, for each label from 0 on.
        said: how the file was understood, "" if it speaks for itself.
    """

    labels: numpy.ndarray
    unknown: int
    classes: ClassSet
    said: str = ""


def read_labelling(
    path: Path, photo: Path, size: tuple[int, int], options: LabelOptions
) -> GivenLabels | numpy.ndarray:
    """Reads labels of a photograph, or scores [L, h, w], float32.

    A .npy file, or a .npz with one array, holds either. A label map is read as those of data sets
    are: indices of a palette, grey values of any depth, colours; 0 and 255 alone are background and
    foreground. Its EXIF orientation, or else the photograph's, turns it.

    Args:
        photo: file of the photograph. size: its height and width as it is seen.
        options: labels that stand for unknown, and those that stand for others.

    Raises:
        LabellingError: no such file, or one that is neither.
    """
    try:
        if path.suffix.lower() in _ARRAYS:
            array = read_array(path)
            if array.size == 0:
                raise ImageError(f"{path}: the array of shape {array.shape} is empty")
            if array.ndim == 3 and array.dtype.kind == "f":
                return array.astype(numpy.float32)
            if array.ndim != 2 or array.dtype.kind not in "iubf":
                raise ImageError(
                    f"{path}: {array.dtype} of shape {array.shape}, expected labels [H, W], whole "
                    "numbers, or probabilities [L, H, W]"
                )
        values = read_values(path)
        orientation = orientation_of(photo) if values.orientation == 1 else 1
        values = _as_photo(
            path, values, photo, size, orientation if options.drawn != "upright" else 1
        )
        given = _labels(path, values, options)
        if orientation == 1 or options.drawn != "auto" or not _fits_both(orientation, size):
            return given
        drawn = "the photograph has an EXIF orientation; labels are those of its stored pixels "
        drawn += "(else give --labels-drawn upright)"
        return dataclasses.replace(given, said="; ".join(filter(None, (given.said, drawn))))
    except (ImageError, DatasetError) as error:
        raise LabellingError(str(error)) from error


def _fits_both(orientation: int, size: tuple[int, int]) -> bool:
    """Whether the stored pixels of a photograph have the size of the upright one."""
    return orientation < 5 or size[0] == size[1]


def _as_photo(
    path: Path, values: LabelValues, photo: Path, size: tuple[int, int], drawn_on: int
) -> LabelValues:
    """The values of the pixels of the photograph as it is seen.

    Args:
        drawn_on: EXIF orientation of the pixels that labels were drawn on, where sizes allow it.
    """

    def turned(pixels: numpy.ndarray | None) -> numpy.ndarray | None:
        if pixels is None:
            return None
        seen = upright(pixels, values.orientation)
        result = as_its_image(seen, size, drawn_on, values.orientation)
        if result is None:
            shape = (seen.shape[0], seen.shape[1])
            wrong = sizes_differ(str(path), shape, photo.name, size, orientation_of(photo))
            raise ImageError(f"{wrong}; only probabilities may be of another size")
        return result

    return dataclasses.replace(values, numbers=turned(values.numbers), colors=turned(values.colors))


def _labels(path: Path, values: LabelValues, options: LabelOptions) -> GivenLabels:
    if values.numbers is None or options.colors:
        return _of_colors(path, values, options)
    numbers = values.numbers.astype(numpy.int64)
    present = numpy.unique(numbers).tolist()
    void = frozenset({IGNORE}) if options.void is None else options.void
    # A mask may be all foreground, as one of a batch of masks is.
    white = foreground_label({0, *present}, None, options) if options.void is None else None
    if white is not None:
        said = f"the labels are 0 and {white}: background and foreground"
        if 0 not in present:
            said = f"every pixel is {white}: foreground (else give --unknown {white})"
        mask = (numbers == white).astype(numpy.int64)
        return GivenLabels(mask, -1, binary_classes(None), said)
    unknown = min(void) if void else -1
    labels = numbers.copy()
    for number in void:
        labels[numbers == number] = unknown
    for number, target in options.numbers.items():
        labels[numbers == number] = _target(target, unknown)
    known = numpy.unique(labels[labels != unknown])
    if known.size and known[0] < 0:
        raise ImageError(
            f"{path}: the label {known[0]} is negative; --unknown {known[0]} lets the CRF fill it"
        )
    if known.size and known[-1] > _LARGEST_LABEL:
        raise ImageError(
            f"{path}: the label {known[-1]} is larger than {_LARGEST_LABEL}, "
            "the largest that a 16-bit PNG holds"
        )
    if known.size > _MOST_LABELS:
        raise ImageError(
            f"{path}: holds {known.size} different labels, allowed are {_MOST_LABELS}: lossy files "
            "and smooth borders look so"
        )
    count = 1 + max([int(known[-1]) if known.size else 0, min(unknown, _LARGEST_LABEL)])
    classes = numbered_classes(count)
    if values.palette is not None and len(values.palette) >= count and not options.numbers:
        classes = dataclasses.replace(classes, colors=tuple(values.palette[:count]))
    if 0 <= unknown < count:
        names = list(classes.names)
        names[unknown] = "unknown"
        classes = dataclasses.replace(classes, names=tuple(names), background=unknown)
    return GivenLabels(labels, unknown, classes)


def _target(target: int | str, unknown: int) -> int:
    if isinstance(target, int):
        return target
    if target.lower() not in ("void", "unknown", "ignore"):
        raise DatasetError(f"--label-map: {target!r} is no number, and classes have no names here")
    if unknown < 0:
        raise DatasetError("--label-map: nothing is unknown with --unknown none")
    return unknown


def _of_colors(path: Path, values: LabelValues, options: LabelOptions) -> GivenLabels:
    """Each colour is a label: those of a known data set in its order."""
    codes = as_colors(values)
    present = numpy.unique(codes)
    if present.size > _MOST_LABELS:
        raise ImageError(
            f"{path}: holds {present.size} different colours, allowed are {_MOST_LABELS}: this is "
            "a photograph, or labels that went through a lossy file"
        )
    found = [int(code) for code in present]
    if options.colors:
        if unknown := [code for code in found if code not in options.colors]:
            raise ImageError(f"{path}: --label-map does not say what #{unknown[0]:06x} is")
        meaning = {code: _target(options.colors[code], IGNORE) for code in found}
        classes, said = numbered_classes(1 + max(meaning.values())), "colours by --label-map"
    elif known := palette_of(set(found)):
        meaning = {code: known[1].colors[code] for code in found}
        classes, said = known[1].classes, f"the colours are those of {known[0]}"
    else:
        meaning = {code: index for index, code in enumerate(found)}
        colors = tuple((code >> 16, code >> 8 & 255, code & 255) for code in found)
        names = tuple(f"#{code:06x}" for code in found)
        background = meaning.get(0)
        classes = ClassSet(names, colors, bright_colors(len(found)), background)
        said = f"each of {len(found)} colours is a label"
    indices = numpy.array([meaning[code] for code in found])
    labels = indices[numpy.searchsorted(present, codes)]
    unknown_label = IGNORE if (labels == IGNORE).any() else -1
    if unknown_label >= 0 and len(classes) <= IGNORE:
        filled = numbered_classes(IGNORE + 1)
        rest = len(classes)
        classes = ClassSet(
            (*classes.names, *filled.names[rest:IGNORE], "unknown"),
            (*classes.colors, *filled.colors[rest:]),
            (*classes.overlay_colors, *filled.overlay_colors[rest:]),
            background=IGNORE,
        )
    return GivenLabels(labels, unknown_label, classes, said)
