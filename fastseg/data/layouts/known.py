"""Data sets whose colours are known wherever their label files lie."""

from __future__ import annotations

from ..classes_file import Declared
from ..labelling import IGNORE
from . import ade20k, camvid, cityscapes, voc

KNOWN_PALETTES: dict[str, Declared] = {
    "PASCAL VOC": voc.PALETTE,
    "Cityscapes": cityscapes.PALETTE,
    "CamVid": camvid.PALETTE,
    "ADE20K": ade20k.PALETTE,
}
# Classes that must occur before a palette is believed: pure red is a class of two of them.
_FEWEST = {"PASCAL VOC": 1, "Cityscapes": 2, "CamVid": 2, "ADE20K": 5}


def palette_of(colors: set[int]) -> tuple[str, Declared] | None:
    """The first known data set whose palette has all these colours 0xRRGGBB, and its name."""
    for name, palette in KNOWN_PALETTES.items():
        classes = {palette.colors.get(color) for color in colors - {0}}
        if None not in classes and len(classes - {IGNORE}) >= _FEWEST[name]:
            return name, palette
    return None
