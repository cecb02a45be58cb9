"""Greys and colours that stand for classes."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from label_cases import (  # noqa: E402
    SIZE,
    classes_map,
    loaded,
    palette_image,
    read_set,
    refused,
    write_set,
)

from fastseg.classes import CAMVID, VOC  # noqa: E402
from fastseg.data import (  # noqa: E402
    label_options,
)
from fastseg.data.layouts.ade20k import ADE20K  # noqa: E402
from fastseg.data.layouts.cityscapes import CITYSCAPES  # noqa: E402

NAMES = {"classes": ["ground", "box", "sky"]}
VOID = numpy.zeros(SIZE, dtype=bool)
VOID[:3] = True


def test_label_map_greys(tmp_path: Path) -> None:
    """The example of 0, 147 and 220, from the command line, a file of lines and JSON."""
    expected = classes_map(3)
    root = write_set(tmp_path / "set", [numpy.array([0, 147, 220], "uint8")[expected]])
    text = refused(root, "0, 147, 220", "221 classes", "--label-map 147=1,220=2", "--trust-labels")
    assert "most of them empty" in text
    lines, as_json = tmp_path / "map.txt", tmp_path / "map.json"
    lines.write_text("# label, class\n147 = 1\n220, 2\n")
    as_json.write_text('{"147": 1, "220": 2}')
    for given in (["147=1,220=2"], ["147=1", "220=2"], [str(lines)], [str(as_json)]):
        split = read_set(root, label_options(label_map=given))
        assert numpy.array_equal(loaded(split)[0], expected), given
        assert len(split.labelling.classes) == 3


def test_label_map_names_and_void(tmp_path: Path) -> None:
    expected = classes_map(3)
    root = write_set(tmp_path, [numpy.array([7, 147, 220], "uint8")[expected]], about=NAMES)
    split = read_set(root, label_options(label_map=["7=sky,147=box,220=void"]))
    assert numpy.array_equal(loaded(split)[0], numpy.array([2, 1, 255])[expected])


def test_label_map_of_colours(tmp_path: Path) -> None:
    expected = classes_map(3)
    colors = numpy.array([[1, 2, 3], [250, 0, 0], [0, 250, 0]], "uint8")
    root = write_set(tmp_path, [colors[expected]])
    refused(root, "#010203", "--label-map '#00fa00=0,#010203=1,#fa0000=2'", "palette_rgb")
    split = read_set(root, label_options(label_map=["#010203=0,#FA0000=1,#00fa00=2"]))
    assert numpy.array_equal(loaded(split)[0], expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["147"], "no-such"),
        (["147="], "expected LABEL=CLASS"),
        (["a=1"], "'a' is no number"),
        (["1=2,1=3"], "1 is there twice"),
        (["147=car"], "no class is called 'car'"),
        (["147=300"], "class 300, allowed are 0 to 254"),
        (["147=7"], "class 7, allowed are 0 to 2"),
        (["99999999999999999999=1"], "is no number"),
    ],
)
def test_label_map_that_says_nothing_is_refused(tmp_path: Path, words, said: str) -> None:  # type: ignore[no-untyped-def]
    root = write_set(tmp_path, [classes_map(3)], about=NAMES)
    said = "No such file" if said == "no-such" else said
    refused(root, "--label-map", said, label_map=words)


PALETTES = {
    "PASCAL VOC": (VOC, (224, 224, 192)),
    "Cityscapes": (CITYSCAPES, (0, 0, 0)),
    "CamVid": (CAMVID, (0, 0, 0)),
    "ADE20K": (ADE20K, (0, 0, 0)),
}


@pytest.mark.parametrize("name", PALETTES)
def test_colours_of_known_data_sets(tmp_path: Path, name: str) -> None:
    classes, void = PALETTES[name]
    count = min(len(classes), 40)
    expected = classes_map(count)
    colors = numpy.array(classes.colors[:count], "uint8")[expected]
    colors[VOID] = void
    expected[VOID] = 255
    split = read_set(write_set(tmp_path, [colors]))
    assert split.labelling.origin == f"the colours of {name}"
    assert split.labelling.classes is classes
    assert numpy.array_equal(loaded(split)[0], expected)


def test_colours_of_classes_json(tmp_path: Path) -> None:
    palette = [[10, 20, 30], [200, 0, 0], [0, 200, 0], [9, 9, 9]]
    expected = classes_map(4)
    root = write_set(
        tmp_path, [numpy.array(palette, "uint8")[expected]], about=NAMES | {"palette_rgb": palette}
    )
    label = loaded(read_set(root))[0]
    assert numpy.array_equal(label, numpy.array([0, 1, 2, 255])[expected])


def test_colours_of_a_palette_in_another_order(tmp_path: Path) -> None:
    """Programs that sort palettes: the colours say the class, not the indices."""
    palette = numpy.array([[10, 20, 30], [200, 0, 0], [0, 200, 0]])
    expected = classes_map(3)
    order = numpy.array([2, 0, 1])

    def write(path: Path, values: numpy.ndarray) -> None:
        palette_image(order[values].astype("uint8"), palette[numpy.argsort(order)]).save(path)

    about = NAMES | {"palette_rgb": palette.tolist()}
    assert numpy.array_equal(
        loaded(read_set(write_set(tmp_path, [expected], write, about=about)))[0], expected
    )


def test_colours_greys_of_classes_json(tmp_path: Path) -> None:
    about = NAMES | {"palette_rgb": [[0, 0, 0], [147, 147, 147], [220, 220, 220]]}
    expected = classes_map(3)
    root = write_set(tmp_path, [numpy.array([0, 147, 220], "uint8")[expected]], about=about)
    assert numpy.array_equal(loaded(read_set(root))[0], expected)


def test_colours_of_one_class_on_black(tmp_path: Path) -> None:
    expected = classes_map(2)
    colors = numpy.array([[0, 0, 0], [200, 0, 0]], "uint8")[expected]
    about = {"classes": ["box"], "palette_rgb": [[200, 0, 0]]}
    split = read_set(write_set(tmp_path, [colors], about=about))
    assert numpy.array_equal(loaded(split)[0], expected)
    assert split.labelling.classes.names == ("background", "box")
    root = write_set(tmp_path, [colors], about={"classes": ["box"]})
    split = read_set(root, label_options(label_map=["#c80000=box"]))
    assert numpy.array_equal(loaded(split)[0], expected)


@pytest.mark.parametrize("palette", [True, False])
def test_colours_after_many_black_files(tmp_path: Path, palette: bool) -> None:
    colors = numpy.array([[0, 0, 0], [128, 0, 0]], "uint8")
    maps = [numpy.zeros(SIZE, "uint8")] * 17 + [classes_map(2)]
    about: dict[str, object] = {"classes": ["nothing", "box"]}
    about |= {"palette_rgb": colors.tolist()} if palette else {"classes": list(VOC.names)}
    split = read_set(write_set(tmp_path, [colors[m] for m in maps], about=about))
    assert sum(int(label.sum()) for label in loaded(split)) == int(classes_map(2).sum())


def test_colours_that_belong_to_no_class_are_named(tmp_path: Path) -> None:
    palette = [[10, 20, 30], [200, 0, 0], [0, 200, 0]]
    colors = numpy.array(palette, "uint8")[classes_map(3)]
    colors[0, :5] = (199, 0, 0)
    root = write_set(tmp_path, [colors], about=NAMES | {"palette_rgb": palette})
    refused(root, "#c70000 (5 pixels", "none of the 3", "classes.json")


def test_colours_after_numbers_are_refused(tmp_path: Path) -> None:
    root = write_set(tmp_path, [classes_map(3)] * 17, about=NAMES)
    Image.fromarray(numpy.full((*SIZE, 3), (1, 2, 3), "uint8")).save(root / "labels" / "9.png")
    refused(root, "9.png")


@pytest.mark.parametrize("about", [None, {"classes": ["ground", "box", "sky"]}])
def test_colours_of_palettes_that_contradict_each_other(tmp_path: Path, about) -> None:  # type: ignore[no-untyped-def]
    """As programs write them that keep a palette of the colours in use."""
    palette = numpy.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]])
    maps = [classes_map(3, seed) for seed in range(2)]
    orders = iter(([0, 1, 2], [2, 0, 1]))

    def write(path: Path, values: numpy.ndarray) -> None:
        order = numpy.array(next(orders))
        palette_image(order[values].astype("uint8"), palette[numpy.argsort(order)]).save(path)

    root = write_set(tmp_path, maps, write, about=about)
    words = (
        "the index 0 is #000000 in",
        "#ff0000 in",
        "--label-map '#000000=0,#0000ff=1,#ff0000=2",
    )
    refused(root, *words)
    refused(root, "palettes of the label files differ", void=["9"])
    asked = label_options(label_map=["#000000=0,#ff0000=1,#0000ff=2"])
    for label, expected in zip(loaded(read_set(root, asked)), maps, strict=True):
        assert numpy.array_equal(label, expected)
    trusted = read_set(root, label_options(trusted=True))
    assert trusted.labelling.colors is None
