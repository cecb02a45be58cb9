"""Photographs with an EXIF orientation, and their labels."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from label_cases import (  # noqa: E402
    SIZE,
    classes_map,
    loaded,
    read_set,
    refused,
    write_set,
)

from fastseg.data import (  # noqa: E402
    label_options,
    labelling_of,
    open_data_set,
)

NAMES = {"classes": ["ground", "box", "sky"]}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("drawn", ["stored", "upright", "tagged"])
def test_exif_turns_photograph_and_labels_alike(
    tmp_path: Path, orientation: int, drawn: str
) -> None:
    """Green where the class is 1, so that the labels must lie on the colours."""
    stored = classes_map(2, orientation)
    photo = numpy.where(stored[..., None] == 1, (0, 200, 0), (200, 0, 0)).astype("uint8")
    root = write_set(tmp_path, [stored], about={"classes": ["red", "green"]})
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photo).save(root / "images" / "0.png", exif=exif)
    label = Image.fromarray(stored)
    if drawn == "tagged":
        label.save(root / "labels" / "0.png", exif=exif)
    elif drawn == "upright":
        from fastseg.data.orientation import upright

        Image.fromarray(numpy.ascontiguousarray(upright(stored, orientation))).save(
            root / "labels" / "0.png"
        )
    ambiguous = drawn == "upright" and orientation < 5
    split = read_set(root, label_options(drawn="upright" if ambiguous else "auto"))
    image, classes = split.load(0)
    assert numpy.array_equal(image[..., 1] == 200, classes == 1)
    data = open_data_set(root)
    _, lines = labelling_of(data, data.splits[""])
    assert (drawn == "tagged") == (len(lines) == 1)
    assert drawn == "tagged" or "EXIF: 1 photograph with an orientation" in lines[1]


def test_exif_sizes_of_some_photographs_decide_for_all(tmp_path: Path) -> None:
    """A label drawn on an upright portrait says that a photograph upside down is meant alike."""
    stored = classes_map(2)
    root = write_set(tmp_path, [stored, numpy.rot90(stored, -1)], about=NAMES)
    for name, orientation in (("0", 3), ("1", 6)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        photo = numpy.zeros((*SIZE, 3), "uint8")
        Image.fromarray(photo).save(root / "images" / f"{name}.png", exif=exif)
    assert numpy.array_equal(loaded(read_set(root))[0], stored)  # not turned
    Image.fromarray(stored).save(root / "labels" / "1.png")  # on the stored pixels
    assert numpy.array_equal(loaded(read_set(root))[0], numpy.rot90(stored, 2))


def test_exif_contradictions_are_refused(tmp_path: Path) -> None:
    stored = classes_map(2)
    root = write_set(tmp_path, [stored, numpy.rot90(stored, -1)], about=NAMES)
    for name in ("0", "1"):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(numpy.zeros((*SIZE, 3), "uint8")).save(
            root / "images" / f"{name}.png", exif=exif
        )
    refused(root, "0.png", "1.png", "EXIF")


def test_exif_is_named_where_sizes_differ(tmp_path: Path) -> None:
    root = write_set(tmp_path, [classes_map(2)[:, :-1]], about=NAMES)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(numpy.zeros((*SIZE, 3), "uint8")).save(root / "images" / "0.png", exif=exif)
    refused(root, "31x24 pixels", "24x32", "EXIF orientation 6")
