"""`fastseg segment --truth`: label maps that the results are scored against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from ..classes import ClassSet
from ..data import DataSet, DatasetError, LabelOptions, Pair, labelling_of, model_classes
from ..data.labelling import IGNORE
from ..data.layouts.files import by_name, image_name, label_name
from ..metrics import Scores, scores
from .images import Source


class Truth:
    """The label maps of the images of a run, and the pixels counted by truth and result.

    Args:
        path: a label file, for one image, or a folder of label files with the images' names.
        sources: the images.
        classes: of the model's labels.
        origin: what messages call the model.
        options: what the command line says about labels.

    Raises:
        DatasetError: no such file, no label map for any image, or labels that fit no class.

    Attributes:
        lines: what was found and decided.
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[Source],
        classes: ClassSet,
        origin: str,
        options: LabelOptions,
    ) -> None:
        files = _label_files(path, sources)
        if not files:
            raise DatasetError(f"{path}: holds no label map with the name of an image")
        self._files = files
        self.classes = classes
        pairs = [Pair(str(image), image, label) for image, label in files.items()]
        data = DataSet(path, "folders", {"": pairs}, None, ())
        self._labelling, lines = labelling_of(
            data, pairs, options, model=model_classes(classes, origin)
        )
        if len(self._labelling.classes) != len(classes):
            raise DatasetError(
                f"{path}: the labels are those of {len(self._labelling.classes)} classes, "
                f"{origin} gives {len(classes)}"
            )
        missing = len(sources) - len(files)
        without = [f"{missing} of {len(sources)} images have no label map there"] if missing else []
        count = f"{len(files)} label map{'s' if len(files) != 1 else ''}"
        self.lines = [f"truth {path}: {count}", *without, *lines]
        self._matrix = torch.zeros(len(classes) + 1, len(classes), dtype=torch.int64)

    @property
    def files(self) -> list[Path]:
        """The label files, which must not be overwritten."""
        return list(self._files.values())

    def score(self, source: Source, labels: numpy.ndarray) -> Scores | None:
        """The scores of one image, which then count in those of all; None without a label map.

        Args:
            labels: the result [H, W], with the size of the upright image.

        Raises:
            ImageError: the label file cannot be read, or does not fit.
        """
        path = self._files.get(source.path)
        if path is None:
            return None
        truth = self._labelling.read(path, source.path, (labels.shape[0], labels.shape[1]))
        count = len(self.classes)
        rows = numpy.where(truth == IGNORE, count, truth).astype(numpy.int64)
        places = rows * count + labels
        counts = numpy.bincount(places.ravel(), minlength=(count + 1) * count)
        matrix = torch.from_numpy(counts).view(count + 1, count)
        self._matrix += matrix
        return scores(matrix, count)

    def total(self) -> Scores:
        """The scores of all pixels that have been counted."""
        return scores(self._matrix, len(self.classes))

    def as_json(self) -> dict[str, Any]:
        """The total, and the counts [C, C] by truth (rows) and result."""
        return {
            **self.total().as_json(self.classes.names),
            "confusion": self._matrix[: len(self.classes)].tolist(),
            "void": self._matrix[len(self.classes)].tolist(),
        }


def _label_files(path: Path, sources: Sequence[Source]) -> dict[Path, Path]:
    """The label file of each image that has one."""
    if not path.is_dir():
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder")
        if len(sources) != 1:
            raise DatasetError(f"{path}: is one label map, expected a folder for the images")
        return {sources[0].path: path}
    labels = by_name(path)
    shared = {stem: file for name, file in labels.items() if (stem := label_name(name))}
    files = {}
    for source in sources:
        name = source.relative.as_posix()
        candidates = (labels.get(name), shared.get(name), shared.get(image_name(name)))
        own = source.path.resolve()
        found = next((file for file in candidates if file and file.resolve() != own), None)
        if found is not None:
            files[source.path] = found
    return files


def without_truth(sources: list[Source], truth: Path) -> list[Source]:
    """The images of a run, where the label maps of --truth lie beside them."""
    if not truth.is_dir():
        return [source for source in sources if source.path.resolve() != truth.resolve()]
    labels = {file.resolve() for file in _label_files(truth, sources).values()}
    return [source for source in sources if source.path.resolve() not in labels]
