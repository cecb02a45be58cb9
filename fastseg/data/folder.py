"""Data sets that are folders of images and folders of label maps of the same names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from PIL import Image

from .._messages import reason
from ..classes import ClassSet, bright_colors, numbered_classes
from ..limits import adopt, limits
from .classes_file import IGNORE, DatasetError, Labelling, read_classes_file
from .images import SUFFIXES, ImageError, read_image

Progress = Callable[[int, int], None]

_IMAGE_FOLDERS = ("images", "image", "img", "JPEGImages")
_LABEL_FOLDERS = ("labels", "label", "masks", "annotations", "SegmentationClass")


@dataclasses.dataclass(frozen=True)
class Pair:
    """An image file and the label file of the same name."""

    name: str
    image: Path
    label: Path


class Split:
    """The checked pairs of one split, in memory if they fit.

    Attributes:
        name: of the split, "" where the data set has none.
        pairs: sorted by name.
        labelling: what the label values mean.
        sizes: (height, width) of each pair.
        pixels: number of pixels of each class over all pairs, int64 [C].
        pixels_around: number of pixels of the images that show a class, int64 [C].
        void: number of pixels that are ignored.
        cached_bytes: memory of the decoded pairs.
    """

    def __init__(
        self,
        name: str,
        pairs: list[Pair],
        labelling: Labelling,
        *,
        cache_bytes: int = 0,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> None:
        """Reads every pair once: the checks, the counts, and as many as fit into cache_bytes.

        Raises:
            DatasetError: files that cannot be read or do not fit each other; the first is named.
        """
        self.name = name
        self.pairs = pairs
        self.labelling = labelling
        self.sizes: list[tuple[int, int]] = []
        self._cache: list[tuple[numpy.ndarray, numpy.ndarray] | None] = []
        self._lookup = _lookup(labelling)
        counts = numpy.zeros(IGNORE + 1, dtype=numpy.int64)
        around = numpy.zeros(IGNORE + 1, dtype=numpy.int64)
        self.cached_bytes = 0
        problems: list[str] = []
        with ThreadPoolExecutor(max(1, threads), initializer=adopt, initargs=(limits(),)) as pool:
            for done, result in enumerate(_in_order(pool, self._read_or_say, pairs, 4 * threads)):
                if isinstance(result, str):
                    problems.append(result)
                else:
                    image, label = result
                    found = numpy.bincount(label.ravel(), minlength=IGNORE + 1)
                    counts += found
                    around += (found > 0) * label.size
                    self.sizes.append(label.shape)
                    size = image.nbytes + label.nbytes
                    fits = self.cached_bytes + size <= cache_bytes
                    self.cached_bytes += size * fits
                    self._cache.append((image, label) if fits else None)
                if progress is not None:
                    progress(done + 1, len(pairs))
        if problems:
            others = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
            raise DatasetError(problems[0] + others)
        self.pixels = counts[: len(labelling.classes)]
        self.pixels_around = around[: len(labelling.classes)]
        self.void = int(counts[IGNORE])

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Image, RGB uint8 [H, W, 3], and classes, uint8 [H, W] with 255 where ignored.

        Not to be written to: they may be the cached ones.
        """
        cached = self._cache[index]
        return cached if cached is not None else self._read(self.pairs[index])

    def _read(self, pair: Pair) -> tuple[numpy.ndarray, numpy.ndarray]:
        image = read_image(pair.image)
        values = read_label(pair.label)
        if image.shape[:2] != values.shape:
            raise ImageError(
                f"{pair.label}: {values.shape[1]}x{values.shape[0]} pixels, its image "
                f"{pair.image.name} has {image.shape[1]}x{image.shape[0]}"
            )
        least, top = int(values.min(initial=0)), int(values.max(initial=0))
        label = self._lookup[values] if least >= 0 and top < len(self._lookup) else None
        if label is None or (label == _UNKNOWN).any():
            if label is None:
                wrong = least if least < 0 else top
            else:
                wrong = int(values[label == _UNKNOWN].max())
            ignored = ", ".join(str(value) for value in sorted(self.labelling.ignored))
            raise ImageError(
                f"{pair.label}: holds the label {wrong}; there are {len(self.labelling.classes)} "
                f"classes (0 to {len(self.labelling.classes) - 1}) and the ignored {ignored}, "
                f"says {self.labelling.origin}"
            )
        return image, label.astype(numpy.uint8)

    def _read_or_say(self, pair: Pair) -> tuple[numpy.ndarray, numpy.ndarray] | str:
        try:
            return self._read(pair)
        except ImageError as error:
            return str(error)


_UNKNOWN = -1


def _lookup(labelling: Labelling) -> numpy.ndarray:
    """Class, 255 or _UNKNOWN for each label value from 0 to 255."""
    table = numpy.full(IGNORE + 1, _UNKNOWN, dtype=numpy.int16)
    table[: len(labelling.classes)] = numpy.arange(len(labelling.classes))
    table[list(labelling.ignored)] = IGNORE
    return table


def _in_order(pool, function, items, ahead):  # type: ignore[no-untyped-def]
    """pool.map, but never more than `ahead` results in memory."""
    waiting = []
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def read_label(path: Path) -> numpy.ndarray:
    """The label values [H, W] of a label map: palette images as their indices, grey ones as values.

    Raises:
        ImageError: it cannot be read, or has colours where numbers are expected.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in ("P", "L", "1", "I", "I;16"):
                raise ImageError(
                    f"{path}: has mode {image.mode}; a label map is a palette or grey image whose "
                    "values are the classes"
                )
            values = numpy.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # the readers let nearly every type through on broken files
        raise ImageError(f"{path}: {reason(error)}") from error
    return values.astype(numpy.uint8) if values.dtype == bool else values


def find_splits(root: Path) -> dict[str, list[Pair]]:
    """The pairs of each split below a data set's folder, sorted by name.

    images/SPLIT/**/NAME.jpg with labels/SPLIT/**/NAME.png; images/NAME.jpg with labels/NAME.png is
    one split, "".

    Raises:
        DatasetError: no such folders, or an image without label or the reverse.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    images, labels = _first(root, _IMAGE_FOLDERS), _first(root, _LABEL_FOLDERS)
    if images is None or labels is None:
        raise DatasetError(
            f"{root}: expected folders images/ and labels/ in it, each with the splits (train, "
            "val, test) or with the files"
        )
    splits = sorted(f.name for f in images.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not splits:
        return {"": pair_files(images, labels)}
    for split in splits:
        if not (labels / split).is_dir():
            raise DatasetError(f"{labels / split}: no such folder, but there is {images / split}")
    return {split: pair_files(images / split, labels / split) for split in splits}


def pair_files(images: Path, labels: Path) -> list[Pair]:
    """The images below one folder with the label maps of the same relative names below another.

    Raises:
        DatasetError: no images, or an image without label or the reverse.
    """
    by_image, by_label = _by_name(images), _by_name(labels)
    if not by_image:
        raise DatasetError(f"{images}: no images in this folder")
    for here, there, folder in ((by_image, by_label, labels), (by_label, by_image, images)):
        if missing := sorted(set(here) - set(there)):
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise DatasetError(f"{here[missing[0]]}: no file of this name in {folder}{more}")
    return [Pair(name, by_image[name], by_label[name]) for name in sorted(by_image)]


def labelling_of(
    root: Path, pairs: Iterable[Pair], ignored: Iterable[int] | None = None
) -> Labelling:
    """What the label values mean: from classes.json or meta.json, else from the label maps.

    Without such a file there are as many classes as the highest label below 255 says; their colours
    come from the palette of the first label map if it has one.

    Args:
        ignored: label values to ignore, in place of those that the file names.

    Raises:
        DatasetError: the file or a label map cannot be read; `ignored` out of range.
    """
    ignored = None if ignored is None else frozenset(ignored)
    if ignored is not None and not all(0 <= value <= IGNORE for value in ignored):
        raise DatasetError(f"ignored labels are {sorted(ignored)}, expected 0 to {IGNORE}")
    labelling = read_classes_file(root)
    if labelling is None:
        labelling = _from_labels(list(pairs), ignored or frozenset())
    if ignored is not None:
        labelling = dataclasses.replace(labelling, ignored=ignored | {IGNORE})
    return labelling


def _from_labels(pairs: list[Pair], ignored: frozenset[int]) -> Labelling:
    top = -1
    try:
        for pair in pairs:
            present = numpy.flatnonzero(numpy.bincount(read_label(pair.label).ravel()))
            top = max([top, *(int(v) for v in present if v not in ignored and v != IGNORE)])
        palette = _palette(pairs[0].label) if pairs else None
    except ImageError as error:
        raise DatasetError(str(error)) from error
    if not 0 <= top < IGNORE:
        raise DatasetError(
            f"{pairs[0].label.parent}: the highest label is {top}; name the classes in classes.json"
        )
    classes = numbered_classes(top + 1)
    if palette is not None and len(palette) >= top + 1:
        classes = ClassSet(classes.names, tuple(palette[: top + 1]), bright_colors(top + 1))
    origin = f"the highest label of {len(pairs)} files"
    return Labelling(classes, frozenset({IGNORE, *ignored}), origin)


def _palette(path: Path) -> list[tuple[int, int, int]] | None:
    with Image.open(path) as image:
        values = image.getpalette() if image.mode == "P" else None
    if values is None:
        return None
    return [(r, g, b) for r, g, b in zip(values[::3], values[1::3], values[2::3], strict=True)]


def _first(root: Path, names: Iterable[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _by_name(folder: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if (
            path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in relative.parts)
        ):
            name = relative.with_suffix("").as_posix()
            if name in files:
                raise DatasetError(f"{path}: has the same name as {files[name].name}")
            files[name] = path
    return files
