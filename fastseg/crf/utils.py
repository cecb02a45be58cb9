"""Unaries and features for a dense CRF: pydensecrf.utils, in numpy alone.

Names, argument order, layouts and numbers are pydensecrf's. Negative labels, which it wraps around,
are an error here; where there are fewer widths than axes or channels, which it leaves in their own
units then, there is a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy

__all__ = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]

Array = numpy.ndarray
Widths = float | Sequence[float]


class _RangeError(ValueError, AssertionError):
    """Raised where pydensecrf asserts."""


class _BoundsError(ValueError, IndexError):
    """Raised where pydensecrf has an index out of bounds."""


def unary_from_labels(
    labels: Array, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Array:
    """Energies of a label map that is right with probability `gt_prob`.

    The label of a pixel costs -log(gt_prob), each other -log((1 - gt_prob) / (n_labels - 1)).

    Args:
        labels: integers of any shape, P in all.
        n_labels: number of labels L; with `zero_unsure` without the label 0.
        gt_prob: between 0 and 1, both excluded.
        zero_unsure: whether label 0 means "unknown": its pixels get the uniform -log(1 / L), and
            label k in the map is row k - 1 of the result. Otherwise label k is row k.

    Returns:
        float32 [L, P].

    Raises:
        ValueError: gt_prob or n_labels out of range; a label outside of 0..L (with `zero_unsure`)
            or 0..L-1. TypeError: labels that are not integers.
    """
    labels = numpy.asarray(labels).reshape(-1)
    if not 0 < gt_prob < 1:
        raise _RangeError(f"gt_prob is {gt_prob}, expected more than 0 and less than 1")
    if n_labels < 1:
        raise ValueError(f"n_labels is {n_labels}, expected at least 1")
    if labels.dtype.kind not in "iub":
        raise TypeError(f"labels have dtype {labels.dtype}, expected integers")
    first = 1 if zero_unsure else 0
    if labels.size > 0 and (labels.min() < 0 or labels.max() >= n_labels + first):
        raise _BoundsError(
            f"labels are {labels.min()} to {labels.max()}, allowed are 0 to {n_labels + first - 1}"
        )
    other = -numpy.log((1.0 - gt_prob) / (n_labels - 1)) if n_labels > 1 else 0.0
    unary = numpy.full((n_labels, labels.size), other, dtype=numpy.float32)
    known = numpy.flatnonzero(labels) if zero_unsure else numpy.arange(labels.size)
    unary[labels[known].astype(numpy.intp) - first, known] = -numpy.log(gt_prob)
    if zero_unsure:
        unary[:, labels == 0] = -numpy.log(1.0 / n_labels)
    return unary


def unary_from_softmax(sm: Array, scale: float | None = None, clip: float | None = 1e-5) -> Array:
    """Energies -log(p) of class probabilities.

    Args:
        sm: probabilities [L, ...], one row per label.
        scale: if given, in (0, 1]: p becomes scale * p + (1 - scale) / L.
        clip: least probability, so that no energy is infinite; None leaves out the limits, and a
            probability of 0 has the energy infinity.

    Returns:
        float32 [L, P], P the number of pixels.

    Raises:
        ValueError: scale out of range, or sm without dimensions.
    """
    sm = numpy.asarray(sm)
    if sm.ndim == 0 or sm.shape[0] == 0:
        raise ValueError(f"sm has shape {sm.shape}, expected [L, ...] with at least one label")
    if scale is not None:
        if not 0 < scale <= 1:
            raise _RangeError(f"scale is {scale}, expected more than 0 and at most 1")
        sm = scale * sm + (1.0 - scale) / sm.shape[0]
    if clip is not None:
        sm = numpy.clip(sm, clip, 1.0)
    with numpy.errstate(divide="ignore"):  # log(0) is meant
        unary = -numpy.log(sm)
    return numpy.ascontiguousarray(unary.reshape(sm.shape[0], -1), dtype=numpy.float32)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> Array:
    """Positions of the pixels of a grid, in units of `sdims`: features of a smoothness kernel.

    Args:
        sdims: width per axis, in pixels, in the order of `shape`; positive. Axes without one keep
            their unit, with a warning.
        shape: the grid's, of any dimension: (H, W) or (D, H, W).

    Returns:
        float32 [len(shape), P]: a row per axis, the slowest first.

    Raises:
        ValueError: more widths than axes, or one that is not positive.
    """
    return _positions(sdims, tuple(shape)).reshape(len(shape), -1)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: Widths, img: Array, chdim: int = -1
) -> Array:
    """Positions and colours of pixels, in units of their widths: features of a bilateral kernel.

    Args:
        sdims: width per spatial axis, in pixels, in the order of the axes; positive.
        schan: width per channel, in units of the channel, or one for all; positive. Axes and
            channels without a width keep their unit, with a warning.
        img: image of any dimension and dtype.
        chdim: the axis of `img` that holds the channels, counted from the end where it is less than
            -1; -1: none, there is one channel.

    Returns:
        float32 [axes + channels, P]: positions, the slowest axis first, then channels.

    Raises:
        ValueError: more widths than axes or channels, or one that is not positive; chdim.
    """
    img = numpy.asarray(img)
    if chdim != -1 and not -img.ndim <= chdim < img.ndim:
        raise ValueError(f"chdim is {chdim}, expected an axis of {img.ndim}, or -1 for no channels")
    channels = img[numpy.newaxis] if chdim == -1 else numpy.moveaxis(img, chdim, 0)
    positions = _positions(sdims, channels.shape[1:])
    one = isinstance(schan, Real) or numpy.ndim(schan) == 0
    given = [schan] * len(channels) if one else schan
    widths = _widths("schan", given, len(channels), "channels", stacklevel=3)
    colors = channels.astype(numpy.float32) / widths.reshape(-1, *[1] * (channels.ndim - 1))
    return numpy.concatenate([positions, colors]).reshape(len(positions) + len(colors), -1)


def compute_unary(labels: Array, M: int, GT_PROB: float = 0.5) -> Array:
    """Deprecated as in pydensecrf: unary_from_labels(labels, M, GT_PROB)."""
    _warn_deprecated("compute_unary", "unary_from_labels")
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: Array, GT_PROB: float = 1) -> Array:
    """Deprecated as in pydensecrf: unary_from_softmax(sm, GT_PROB, clip=None)."""
    _warn_deprecated("softmax_to_unary", "unary_from_softmax")
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def _warn_deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is deprecated, use {new}", DeprecationWarning, stacklevel=3)


def _positions(sdims: Sequence[float], shape: tuple[int, ...]) -> Array:
    """Coordinates of every pixel over the widths, [axes, *shape]."""
    widths = _widths("sdims", sdims, len(shape), "axes")
    return numpy.indices(shape, dtype=numpy.float32) / widths.reshape(-1, *[1] * len(shape))


def _widths(name: str, widths: Any, count: int, of: str, stacklevel: int = 4) -> Array:
    array = numpy.asarray(widths, dtype=numpy.float32)
    if array.ndim != 1:
        raise TypeError(f"{name} is {widths!r}, expected a sequence of {count} widths")
    if not (numpy.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} is {widths}, expected positive and finite widths")
    if len(array) > count:
        raise _BoundsError(f"{name} has {len(array)} widths, but there are {count} {of}")
    if len(array) < count:
        warnings.warn(
            f"{name} has {len(array)} widths for {count} {of}: the others keep their unit",
            stacklevel=stacklevel,
        )
    return numpy.concatenate([array, numpy.ones(count - len(array), numpy.float32)])
