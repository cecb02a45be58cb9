"""Random views of training images: scale, crop, flip and colour."""

from __future__ import annotations

import dataclasses
import math

import numpy
from PIL import Image

from .labelling import IGNORE

# Of red, green and blue in grey (ITU-R BT.601).
_GREY = numpy.array([0.299, 0.587, 0.114])


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """One random view of an image and its label map.

    Attributes:
        crop: (height, width) of the view.
        working_size: longer side, in pixels, that an image has at scale 1.
        scale: smallest and largest random scale on top; its logarithm is uniform.
        flip: whether half of the views are mirrored.
        brightness, contrast, saturation: each factor is drawn from 1 - x .. 1 + x.
        hue: turn of the colours, in parts of a full circle, drawn from -x .. x.
        fill: value of each band beyond the image, or one of all bands; its label is void.
    """

    crop: tuple[int, int]
    working_size: int
    scale: tuple[float, float] = (0.5, 2.0)
    flip: bool = True
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.03
    fill: tuple[int, ...] = (124, 116, 104)

    def __call__(
        self, image: numpy.ndarray, label: numpy.ndarray, rng: numpy.random.Generator
    ) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
        """A view of the image, made of one window of it and one resize.

        Args:
            image: uint8 [H, W, C]; three bands are RGB. label: uint8 [H, W].
            rng: all the randomness; the same state gives the same view.

        Returns:
            The view uint8 [h, w, C], its labels uint8 [h, w], and the colour change float32
            [C, C + 1]: the view's values x become M[:, :C] @ x + M[:, C], to be clamped to 0..255.
        """
        low, high = self.scale
        scale = math.exp(rng.uniform(math.log(low), math.log(high)))
        scale *= self.working_size / max(label.shape)
        # In the view's axis: which stretch of the image, and where it lies in the view.
        spans = [
            _span(side, length, scale, rng.random())
            for side, length in zip(self.crop, label.shape, strict=True)
        ]
        view, labels = _resized_window(image, label, self.crop, spans, self.fill)
        if self.flip and rng.random() < 0.5:
            view, labels = view[:, ::-1], labels[:, ::-1]
        color = self._color_change(view.mean((0, 1)), rng)
        return numpy.ascontiguousarray(view), numpy.ascontiguousarray(labels), color

    def _color_change(self, mean: numpy.ndarray, rng: numpy.random.Generator) -> numpy.ndarray:
        """Brightness, contrast, saturation and hue as one affine map [C, C + 1].

        Bands that are no colours have no hue and no saturation, and each its own mean.
        """
        brightness, contrast, saturation = (
            rng.uniform(1 - x, 1 + x) for x in (self.brightness, self.contrast, self.saturation)
        )
        matrix = _hue_rotation(rng.uniform(-self.hue, self.hue))
        bands = len(mean)
        if bands == 3:
            grey = numpy.outer(numpy.ones(3), _GREY)
            matrix = (saturation * numpy.eye(3) + (1 - saturation) * grey) @ matrix
            mean = numpy.full(3, _GREY @ mean)
        else:
            matrix = numpy.eye(bands)
        change = numpy.empty((bands, bands + 1), dtype=numpy.float32)
        change[:, :bands] = brightness * contrast * matrix
        # Contrast is relative to the view's mean (grey), which brightness scales along.
        change[:, bands] = brightness * (1 - contrast) * mean
        return change


@dataclasses.dataclass(frozen=True)
class _Span:
    """A stretch of an image's axis (start, end, in its pixels, fractional) and of the view's."""

    start: float
    end: float
    at: int
    length: int


def _span(side: int, length: int, scale: float, where: float) -> _Span:
    """A random window of `side` pixels of the axis that has `length` pixels before scaling."""
    scaled = max(1, round(length * scale))
    if scaled <= side:  # all of the image, somewhere in the view
        return _Span(0.0, float(length), int(where * (side - scaled + 1)), scaled)
    start = int(where * (scaled - side + 1))
    step = length / scaled
    return _Span(start * step, (start + side) * step, 0, side)


def _resized_window(
    image: numpy.ndarray,
    label: numpy.ndarray,
    crop: tuple[int, int],
    spans: list[_Span],
    fill: tuple[int, ...],
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Cuts and resizes: the image with antialiasing, the labels to the nearest."""
    vertical, horizontal = spans
    # Pillow copies what it is given: only the window, with a border for the filter.
    border = 4
    top, left = max(0, int(vertical.start) - border), max(0, int(horizontal.start) - border)
    bottom, right = math.ceil(vertical.end) + border, math.ceil(horizontal.end) + border
    pixels = numpy.ascontiguousarray(image[top:bottom, left:right])
    values = numpy.ascontiguousarray(label[top:bottom, left:right])
    box = (
        horizontal.start - left,
        vertical.start - top,
        min(horizontal.end - left, values.shape[1]),
        min(vertical.end - top, values.shape[0]),
    )
    size = (horizontal.length, vertical.length)
    resized = _resized(pixels, size, box)
    nearest = Image.fromarray(values).resize(size, Image.Resampling.NEAREST, box)
    if size == (crop[1], crop[0]):
        return resized, numpy.asarray(nearest)
    view = numpy.empty((*crop, image.shape[2]), dtype=numpy.uint8)
    view[:] = fill
    labels = numpy.full(crop, IGNORE, dtype=numpy.uint8)
    rows = slice(vertical.at, vertical.at + vertical.length)
    columns = slice(horizontal.at, horizontal.at + horizontal.length)
    view[rows, columns] = resized
    labels[rows, columns] = numpy.asarray(nearest)
    return view, labels


def _resized(
    pixels: numpy.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]
) -> numpy.ndarray:
    """uint8 [h, w, C]: the box of the pixels at a size (width, height), with antialiasing."""
    bands = pixels.shape[2]
    if bands == 3:
        return numpy.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box))
    planes = [
        Image.fromarray(numpy.ascontiguousarray(pixels[..., band])).resize(
            size, Image.Resampling.BILINEAR, box
        )
        for band in range(bands)
    ]
    return numpy.stack([numpy.asarray(plane) for plane in planes], axis=2)


def _hue_rotation(turn: float) -> numpy.ndarray:
    """The rotation [3, 3] of RGB about the grey axis (Rodrigues' formula)."""
    angle = 2 * math.pi * turn
    cosine, sine = math.cos(angle), math.sin(angle)
    cross = numpy.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cosine * numpy.eye(3) + sine * cross + (1 - cosine) / 3 * numpy.ones((3, 3))
