"""The pairs of a split: read once, checked, counted, and kept in memory if they fit."""

from __future__ import annotations

import collections
from collections.abc import Callable

import numpy

from .bands import noted
from .images import ImageError, read_image
from .labelling import IGNORE, DatasetError, Labelling
from .layouts import Pair
from .threads import in_order

Progress = Callable[[int, int], None]


class Split:
    """The checked pairs of one split, in memory if they fit.

    Attributes:
        name: of the split, "" where the data set has none.
        pairs: sorted by name.
        labelling: what the label values mean.
        bands: channels of the images, the same for all.
        sizes: (height, width) of each pair.
        pixels: number of pixels of each class over all pairs, int64 [C].
        pixels_around: number of pixels of the images that show a class, int64 [C].
        void: number of pixels that are void.
        mean, std: of each channel over all images, where 0 is 0 and 255 is 1.
        cached_bytes: memory of the decoded pairs.

    Args:
        cache_bytes: memory that decoded pairs may take; 0 decodes them at every use.
        threads: number of threads that check the files.
        progress: called with the number of checked pairs and the number of all.

    Raises:
        DatasetError: a file cannot be read, or image and label do not fit each other.
    """

    def __init__(
        self,
        name: str,
        pairs: list[Pair],
        labelling: Labelling,
        *,
        bands: int = 3,
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
        self.bands = bands
        self.sizes: list[tuple[int, int]] = []
        self._cache: list[tuple[numpy.ndarray, numpy.ndarray] | None] = []
        counts = numpy.zeros(IGNORE + 1, dtype=numpy.int64)
        around = numpy.zeros(IGNORE + 1, dtype=numpy.int64)
        sums = numpy.zeros((2, bands))
        self.cached_bytes = 0
        problems: list[str] = []
        self._left_out: collections.Counter[str] = collections.Counter()
        results = in_order(self._read_or_say, pairs, max(1, threads))
        for done, result in enumerate(results, 1):
            if isinstance(result, str):
                problems.append(result)
            else:
                image, label, left_out = result
                self._left_out.update(left_out)
                found = numpy.bincount(label.ravel(), minlength=IGNORE + 1)
                counts += found
                sums += _moments(image)
                around += (found > 0) * label.size
                self.sizes.append((label.shape[0], label.shape[1]))
                size = image.nbytes + label.nbytes
                fits = self.cached_bytes + size <= cache_bytes
                self.cached_bytes += size * fits
                self._cache.append((image, label) if fits else None)
            if progress is not None:
                progress(done, len(pairs))
        if problems:
            others = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
            raise DatasetError(problems[0] + others)
        self.pixels = counts[: len(labelling.classes)]
        self.pixels_around = around[: len(labelling.classes)]
        self.void = int(counts[IGNORE])
        self.mean, self.std = _mean_and_std(sums, int(counts.sum()))

    @property
    def notes(self) -> list[str]:
        """Lines about what of the images the model is not given."""
        return noted(self._left_out, len(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Image, uint8 [H, W, bands], and classes, uint8 [H, W] with 255 where void.

        Not to be written to: they may be the cached ones.
        """
        cached = self._cache[index]
        return cached if cached is not None else self._read(self.pairs[index])[:2]

    def _read(self, pair: Pair) -> tuple[numpy.ndarray, numpy.ndarray, list[str]]:
        left_out: list[str] = []
        image = read_image(pair.image, self.bands, left_out.append)
        size = (image.shape[0], image.shape[1])
        return image, self.labelling.read(pair.label, pair.image, size), left_out

    def _read_or_say(self, pair: Pair) -> tuple[numpy.ndarray, numpy.ndarray, list[str]] | str:
        try:
            return self._read(pair)
        except ImageError as error:
            return str(error)


def _moments(image: numpy.ndarray) -> numpy.ndarray:
    """The sums of the values of each channel, and of their squares, float64 [2, bands]."""
    result = numpy.empty((2, image.shape[2]))
    steps = numpy.arange(256.0)
    for channel in range(image.shape[2]):
        counts = numpy.bincount(image[..., channel].ravel(), minlength=256)
        result[:, channel] = counts @ steps, counts @ (steps * steps)
    return result


def _mean_and_std(sums: numpy.ndarray, pixels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean = sums[0] / max(1, pixels)
    variance = sums[1] / max(1, pixels) - mean * mean
    # A channel of one value has no spread, and is only centred.
    std = numpy.where(variance > 0.25, numpy.sqrt(numpy.maximum(variance, 0)), 255.0)
    mean_in, std_in = (mean / 255).round(6), (std / 255).round(6)
    return tuple(mean_in.tolist()), tuple(std_in.tolist())
