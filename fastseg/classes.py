"""What the numbers in a label map mean: class names and the colours to show them in."""

from __future__ import annotations

import colorsys
import dataclasses
import operator

from ._checks import is_integer

Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class ClassSet:
    """The classes of a model, in the order of its channels.

    Attributes:
        names: one per class.
        colors: RGB 0..255 per class, the data set's own: the palette of label files.
        overlay_colors: RGB per class, bright enough to be told apart over a photograph.
        background: the class that means "nothing", or None; overlays leave it uncoloured.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    overlay_colors: tuple[Color, ...]
    background: int | None = None

    def __len__(self) -> int:
        return len(self.names)


def voc_colors(count: int) -> tuple[Color, ...]:
    """The colours of PASCAL VOC's label files, defined for any number of classes up to 2^24.

    The bits of the class index, three at a time, become the bits of red, green and blue from the
    highest down.
    """
    colors = []
    for index in range(count):
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        colors.append((channels[0], channels[1], channels[2]))
    return tuple(colors)


def bright_colors(count: int) -> tuple[Color, ...]:
    """Saturated colours for any number of classes; neighbours in the list differ the most.

    The hue advances by the golden section of the circle; saturation and value alternate, so that
    hues that come close after several turns differ otherwise.
    """
    tones = ((0.78, 1.0), (0.62, 0.93), (0.95, 0.86))
    colors = []
    for index in range(count):
        saturation, value = tones[index % len(tones)]
        rgb = colorsys.hsv_to_rgb((0.57 + index * 0.618034) % 1.0, saturation, value)
        colors.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return tuple(colors)


def _rgb(hexadecimal: str) -> Color:
    red, green, blue = bytes.fromhex(hexadecimal.removeprefix("#"))
    return red, green, blue


def numbered_classes(count: int) -> ClassSet:
    """Generic classes: numbered names and default colours."""
    names = tuple(f"class {index}" for index in range(count))
    return ClassSet(names, voc_colors(count), bright_colors(count))


def as_class_set(classes: ClassSet | int) -> ClassSet:
    """The classes that a model's argument `classes` means: their number, or names and colours.

    Raises:
        ValueError: fewer than one. TypeError: something else.
    """
    if isinstance(classes, ClassSet):
        return classes
    if not is_integer(classes):
        raise TypeError(f"classes is {classes!r}, expected their number or a ClassSet")
    count = operator.index(classes)
    if count < 1:
        raise ValueError(f"classes is {count}, expected at least 1")
    return numbered_classes(count)


def label_classes(classes: ClassSet, outputs: int) -> ClassSet:
    """What the labels of a model mean that gives `outputs` logits per pixel.

    A single logit separates two labels: 0, the background, and 1, the only class. With as many
    logits as classes the labels are these; with another number they are numbered, for nothing is
    known of them.

    Args:
        classes: of the model, or of the data set that it was trained on.
        outputs: number of channels of its logits, at least 1.

    Returns:
        One class per label, two for a single logit.
    """
    labels = max(outputs, 2)
    if labels == len(classes):
        return classes
    if labels != 2 or len(classes) != 1:
        return numbered_classes(labels)
    (name,), (color,), black = classes.names, classes.colors, (0, 0, 0)
    return ClassSet(
        ("background", "foreground" if name == numbered_classes(1).names[0] else name),
        (black, voc_colors(2)[1] if color == black else color),
        (black, classes.overlay_colors[0]),
        background=0,
    )


# Name and overlay colour; what is often seen together lies far apart.
_VOC = (
    ("background", "#000000"),
    ("aeroplane", "#4cc9f0"),
    ("bicycle", "#ffa21f"),
    ("bird", "#b8de4f"),
    ("boat", "#3a86ff"),
    ("bottle", "#06d6a0"),
    ("bus", "#ffd60a"),
    ("car", "#f03e6b"),
    ("cat", "#00c9d6"),
    ("chair", "#c98a57"),
    ("cow", "#ff8fab"),
    ("dining table", "#e0b070"),
    ("dog", "#ff6b4a"),
    ("horse", "#7bd389"),
    ("motorbike", "#ff2d95"),
    ("person", "#a97bff"),
    ("potted plant", "#2fbf4a"),
    ("sheep", "#d8c4f2"),
    ("sofa", "#5560e8"),
    ("train", "#d1495b"),
    ("tv", "#0096c7"),
)
VOC = ClassSet(
    names=tuple(name for name, _ in _VOC),
    colors=voc_colors(len(_VOC)),
    overlay_colors=tuple(_rgb(color) for _, color in _VOC),
    background=0,
)

# Name, the data set's colour, and the overlay's.
_CAMVID = (
    ("Sky", "#808080", "#6ec6ff"),
    ("Building", "#800000", "#c96b4a"),
    ("Pole", "#c0c080", "#fff07a"),
    ("Road", "#804080", "#8f7bd6"),
    ("Pavement", "#3c28de", "#f2a0d0"),
    ("Tree", "#808000", "#4fbf4a"),
    ("SignSymbol", "#c08080", "#ffd60a"),
    ("Fence", "#404080", "#e0a060"),
    ("Car", "#400080", "#2f6bff"),
    ("Pedestrian", "#404000", "#ff3b5c"),
    ("Bicyclist", "#0080c0", "#00d6c6"),
)
# The 11 classes of SegNet's version; what they leave out, Void, has the label 11 in its files.
CAMVID = ClassSet(
    names=tuple(name for name, _, _ in _CAMVID),
    colors=tuple(_rgb(color) for _, color, _ in _CAMVID),
    overlay_colors=tuple(_rgb(color) for _, _, color in _CAMVID),
)
