"""One rule for the EXIF orientation of an image and of its label map.

Images are seen upright. A label map was drawn either on the upright image or, by a program that
knows no EXIF, on its stored pixels; `as_its_image` finds out which, and turns it where needed.
"""

from __future__ import annotations

import numpy


def upright(array: numpy.ndarray, orientation: int) -> numpy.ndarray:
    """Stored pixels [H, W] or [H, W, bands], turned as the EXIF orientation, 1 to 8, says."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    return array


def as_its_image(
    label: numpy.ndarray,
    size: tuple[int, int],
    image_orientation: int,
    label_orientation: int = 1,
) -> numpy.ndarray | None:
    """Turns a label map as its upright image was turned.

    A label map with an orientation of its own, or whose image has none, is upright already. Others
    were drawn on the stored pixels if these have their size, also where the upright image has the
    same (a square one, one turned by 180 degrees, a mirrored one); else on the upright image.

    Args:
        label: values [H, W], upright as the label file's own data say.
        size: height and width of the upright image.
        image_orientation: EXIF orientation of the image file, 1 to 8.
        label_orientation: that of the label file.

    Returns:
        The labels [H, W] of the upright image, or None: of neither size, so of another image.
    """
    if image_orientation != 1 and label_orientation == 1:
        turned = upright(label, image_orientation)
        if turned.shape == size:
            return turned
    return label if label.shape == size else None


def sizes_differ(
    label: str, label_size: tuple[int, int], image: str, size: tuple[int, int], orientation: int
) -> str:
    """One line that says that a label map, of (height, width), belongs to another image."""
    exif = f", upright as its EXIF orientation {orientation} says" if orientation != 1 else ""
    return (
        f"{label}: {label_size[1]}x{label_size[0]} pixels, its image {image} has "
        f"{size[1]}x{size[0]}{exif}"
    )
