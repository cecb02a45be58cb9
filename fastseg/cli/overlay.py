"""Pictures of label maps: the palette PNG, and the photograph under coloured classes."""

from __future__ import annotations

from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .._files import written_whole
from .._messages import one_line
from ..classes import ClassSet

_BAND = (22, 24, 29)
_TEXT = (236, 238, 242)
_FAINT = (146, 151, 162)
_OPACITY = 0.55
_LONGEST_NAME = 48  # letters of a class name in a picture
_DIMMED = 0.7  # brightness of the background, against which the classes stand out


def write_labels(path: Path, labels: numpy.ndarray, classes: ClassSet) -> None:
    """Writes labels [H, W] as a PNG whose pixel values are the classes.

    Up to 256 classes it has the palette of the data set; beyond that it is 16-bit grey.
    """
    if len(classes) <= 256:
        image = Image.fromarray(labels.astype("uint8"))
        image.putpalette([value for color in classes.colors for value in color])
    else:
        image = Image.fromarray(labels.astype("uint16"))
    with written_whole(path) as file:
        image.save(file, "PNG", optimize=True)


def write_overlay(
    path: Path, photo: numpy.ndarray, labels: numpy.ndarray, classes: ClassSet
) -> None:
    """Writes the photograph [H, W, 3] under its classes [H, W], with a legend below, as a PNG."""
    picture = Image.fromarray(_blend(photo, labels, classes))
    with written_whole(path) as file:
        _with_legend(picture, labels, classes).save(file, "PNG", optimize=True)


def write_before_after(
    path: Path,
    photo: numpy.ndarray,
    before: numpy.ndarray,
    after: numpy.ndarray,
    classes: ClassSet,
) -> None:
    """Writes the photograph under two labellings [H, W], side by side, with one legend."""
    parts = [Image.fromarray(_blend(photo, labels, classes)) for labels in (before, after)]
    width, height = parts[0].size
    gap = max(4, width // 100)
    pair = Image.new("RGB", (2 * width + gap, height), _BAND)
    for i, (part, caption) in enumerate(zip(parts, ("before", "after"), strict=True)):
        pair.paste(part, (i * (width + gap), 0))
        _write_caption(ImageDraw.Draw(pair), i * (width + gap), caption, width)
    with written_whole(path) as file:
        _with_legend(pair, after, classes).save(file, "PNG", optimize=True)


def shares(labels: numpy.ndarray, classes: ClassSet) -> list[tuple[int, int]]:
    """Returns (class, pixels) of the classes that occur, the largest first."""
    counts = numpy.bincount(labels.ravel(), minlength=len(classes))
    order = numpy.argsort(-counts, kind="stable")
    return [(int(index), int(counts[index])) for index in order if counts[index] > 0]


def _blend(photo: numpy.ndarray, labels: numpy.ndarray, classes: ClassSet) -> numpy.ndarray:
    colors = numpy.array(classes.overlay_colors, dtype="float32")
    opacity = numpy.full(len(classes), _OPACITY, dtype="float32")
    brightness = numpy.ones(len(classes), dtype="float32")
    if classes.background is not None:
        opacity[classes.background] = 0.0
        brightness[classes.background] = _DIMMED
    own = (1 - opacity) * brightness
    blended = photo * own[labels][..., None] + (colors * opacity[:, None])[labels]
    line = _edges(labels)[..., None]
    return (blended + (255.0 - blended) * line).round().astype("uint8")


def _edges(labels: numpy.ndarray) -> numpy.ndarray:
    """Returns the opacity [H, W], 0 to 1, of a soft line along class borders."""
    width = max(1, round(min(labels.shape) / 250))
    edges = numpy.zeros(labels.shape, dtype="uint8")
    for shift in range(1, width + 1):
        edges[shift:] |= labels[shift:] != labels[:-shift]
        edges[:, shift:] |= labels[:, shift:] != labels[:, :-shift]
    soft = Image.fromarray(edges * 255).filter(ImageFilter.GaussianBlur(0.7))
    return numpy.asarray(soft) * numpy.float32(1 / 255)


def _write_caption(draw: ImageDraw.ImageDraw, x: int, caption: str, width: int) -> None:
    """Writes the caption on a small plate in the upper left corner of the picture at column x."""
    size = min(max(round(width / 32), 9), 40)
    font = ImageFont.load_default(size)
    right = x + round(font.getlength(caption) + 1.8 * size)
    draw.rounded_rectangle(
        (x + size // 2, size // 2, right, 2 * size + size // 4), size // 3, _BAND
    )
    draw.text((x + size * 1.15, size * 1.38), caption, _TEXT, font, anchor="lm")


def _with_legend(picture: Image.Image, labels: numpy.ndarray, classes: ClassSet) -> Image.Image:
    """Adds a band below the picture that names its classes, the largest share first."""
    size = min(max(round(picture.width / 38), 13), 34)
    font = ImageFont.load_default(size)
    gap, swatch = round(size * 0.5), round(size * 0.95)
    entries = []
    for index, pixels in shares(labels, classes):
        percent = 100 * pixels / labels.size
        share = f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"
        name = short(classes.names[index])
        name_width = font.getlength(name)
        width = swatch + gap + name_width + gap + font.getlength(share)
        entries.append((index, name, share, name_width, width))

    margin, row_height = size, round(size * 1.75)
    canvas_width = max(picture.width, round(max(entry[4] for entry in entries)) + 2 * margin)
    places, x, row = [], float(margin), 0
    for *_, width in entries:
        if x > margin and x + width > canvas_width - margin:
            x, row = float(margin), row + 1
        places.append((x, row))
        x += width + 2 * margin

    band = (row + 1) * row_height + margin
    canvas = Image.new("RGB", (canvas_width, picture.height + band), _BAND)
    canvas.paste(picture, ((canvas_width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for (index, name, share, name_width, _), (x, row) in zip(entries, places, strict=True):
        middle = picture.height + margin / 2 + (row + 0.5) * row_height
        box = (x, middle - swatch / 2, x + swatch, middle + swatch / 2)
        if index == classes.background:
            draw.rounded_rectangle(box, swatch / 4, outline=_FAINT, width=max(1, size // 12))
        else:
            draw.rounded_rectangle(box, swatch / 4, fill=classes.overlay_colors[index])
        x += swatch + gap
        draw.text((x, middle), name, _TEXT, font, anchor="lm")
        draw.text((x + name_width + gap, middle), share, _FAINT, font, anchor="lm")
    return canvas


def short(name: str) -> str:
    """Shortens a class name to fit a picture: files may hold names of any length."""
    name = one_line(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."
