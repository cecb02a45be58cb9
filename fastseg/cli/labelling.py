"""Reading what `fastseg crf` refines: a label map, or the probabilities of the labels."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image, UnidentifiedImageError

from .._messages import reason

_LARGEST_LABEL = 65535


class LabellingError(Exception):
    """A file that holds no labelling; the message names the path and says why."""


def read_labelling(path: Path) -> numpy.ndarray:
    """Labels [H, W], integers, or scores [L, h, w], float32.

    A .npy file, or a .npz with one array, holds either; an image with a palette or one channel has
    labels as its pixel values.

    Raises:
        LabellingError: no such file, or one that is neither.
    """
    try:
        array = _read_array(path) if path.suffix in (".npy", ".npz") else _read_image(path)
    except UnidentifiedImageError:
        raise LabellingError(f"{path}: not an image or .npy file") from None
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise LabellingError(f"{path}: {reason(error)}") from error
    if array.size == 0:
        raise LabellingError(f"{path}: the array of shape {array.shape} is empty")
    if array.ndim == 2 and array.dtype.kind in "iub":
        if array.min() < 0:
            raise LabellingError(f"{path}: the label {array.min()} is negative")
        if array.max() > _LARGEST_LABEL:
            raise LabellingError(
                f"{path}: the label {array.max()} is larger than {_LARGEST_LABEL}, "
                "the largest that a 16-bit PNG holds"
            )
        return array
    if array.ndim == 3 and array.dtype.kind == "f":
        return array.astype(numpy.float32)
    raise LabellingError(
        f"{path}: {array.dtype} of shape {array.shape}, expected integer labels [H, W] "
        "or probabilities [L, H, W]"
    )


def _read_array(path: Path) -> numpy.ndarray:
    try:
        loaded = numpy.load(path, allow_pickle=False)
    except ValueError:  # of numpy's messages most are about pickles
        raise ValueError("not an array of numbers that numpy.save has written") from None
    if isinstance(loaded, numpy.ndarray):
        return loaded
    with loaded:
        if len(loaded.files) != 1:
            names = ", ".join(loaded.files) or "none"
            raise ValueError(f"expected one array, it holds {len(loaded.files)} ({names})")
        return loaded[loaded.files[0]]


def _read_image(path: Path) -> numpy.ndarray:
    with Image.open(path) as image:
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise ValueError(
                f"an image of mode {image.mode} holds no labels: "
                "expected a palette or one channel of integers"
            )
        return numpy.array(image)
