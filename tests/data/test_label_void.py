"""Which labels are void, and data sets whose labels make no sense."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from label_cases import (  # noqa: E402
    SIZE,
    as_dtype,
    classes_map,
    loaded,
    read_set,
    refused,
    write_set,
)

from fastseg.classes import ClassSet  # noqa: E402
from fastseg.data import (  # noqa: E402
    check_sense,
    label_options,
    labelling_of,
    open_data_set,
)

NAMES = {"classes": ["ground", "box", "sky"]}
VOID = numpy.zeros(SIZE, dtype=bool)
VOID[:3] = True


# Void: 255 by habit, any other by option.


@pytest.mark.parametrize("about", [None, {"classes": ["ground", "box"]}, {"classes": ["box"]}])
def test_void_0_and_255_alone_are_background_and_foreground(tmp_path: Path, about) -> None:  # type: ignore[no-untyped-def]
    maps = [classes_map(2, seed) for seed in range(2)]
    root = write_set(tmp_path, [255 * m for m in maps], about=about)
    split = read_set(root)
    for label, expected in zip(loaded(split), maps, strict=True):
        assert numpy.array_equal(label, expected)
    names = split.labelling.classes.names
    assert (
        names
        == {
            None: ("background", "foreground"),
            "ground": ("ground", "box"),
            "box": ("background", "box"),
        }[about["classes"][0] if about else None]
    )
    data = open_data_set(root)
    _, lines = labelling_of(data, data.splits[""])
    assert "the labels are 0 and 255" in lines[0]
    assert "pixels of 2 label files: 0 50.0 %, 255 50.0 %" in lines[0]


@pytest.mark.parametrize("declared", [True, False])
def test_void_0_and_65535_are_the_same_at_16_bits(tmp_path: Path, declared: bool) -> None:
    values = classes_map(2)
    about = {"classes": ["nothing", "box"]} if declared else None
    root = write_set(tmp_path, [65535 * values.astype("uint16")], about=about)
    assert numpy.array_equal(loaded(read_set(root))[0], values)
    refused(root, "one class", void=["65535"]) if declared else None


def test_void_0_and_255_in_different_files(tmp_path: Path) -> None:
    """The meaning is that of all files together."""
    maps = [numpy.zeros(SIZE, "uint8"), numpy.full(SIZE, 255, "uint8")]
    split = read_set(write_set(tmp_path, maps))
    assert split.pixels.tolist() == [24 * 32, 24 * 32]


def test_void_255_beside_other_labels_or_by_option(tmp_path: Path) -> None:
    values = classes_map(3)
    values[VOID] = 255
    split = read_set(write_set(tmp_path / "a", [values]))
    assert split.void == 3 * 32 and len(split.labelling.classes) == 3
    masks = 255 * classes_map(2)
    refused(
        write_set(tmp_path / "b", [masks]), "one class, class 0", "50.0 % are void",
        "labels 255", "--trust-labels", void=["255"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("void", "dtype", "suffix"),
    [
        (65535, "uint16", ".png"),
        (-1, "int32", ".tif"),
        (2**31 - 1, "int32", ".tif"),
        (254, "uint8", ".png"),
        (-(2**40), "int64", ".npy"),
        (9, "uint8", ".png"),
        (0, "uint8", ".png"),
    ],
)
@pytest.mark.parametrize("in_file", [True, False])
def test_void_may_be_any_number(
    tmp_path: Path, void: int, dtype: str, suffix: str, in_file: bool
) -> None:
    values = classes_map(3).astype(dtype)
    values += void == 0
    expected = values.astype("uint8")
    values[VOID] = void
    expected[VOID] = 255
    names = [*NAMES["classes"], "more"]
    about: dict[str, object] = {"classes": names[: 4 if void == 0 else 3]}
    if in_file:
        root = write_set(
            tmp_path, [values], as_dtype(dtype), suffix, about | {"ignore_label": void}
        )
        split = read_set(root)
    else:
        root = write_set(tmp_path, [values], as_dtype(dtype), suffix, about)
        split = read_set(root, label_options([str(void)]))
    assert numpy.array_equal(loaded(split)[0], expected)


@pytest.mark.parametrize("value", [-1, 65535, 2**31 - 1, 255])
def test_void_that_nobody_named_is_refused_with_the_option(tmp_path: Path, value: int) -> None:
    values = classes_map(3).astype("int32")
    values[VOID] = value
    void = ["none"] if value == 255 else []
    for about in (NAMES, None):
        root = write_set(tmp_path / str(about), [values], as_dtype("int32"), ".tif", about)
        refused(root, str(value), f"--void {value}", void=void)


def test_void_by_option_replaces_that_of_the_file(tmp_path: Path) -> None:
    values = classes_map(4)
    root = write_set(tmp_path, [values], about=NAMES | {"ignore_label": 3})
    assert loaded(read_set(root))[0].tolist() == numpy.where(values == 3, 255, values).tolist()
    split = read_set(root, label_options(["3", "1"]))
    assert split.pixels.tolist() == [192, 0, 192] and split.labelling.void == [1, 3, 255]


# One class.


@pytest.mark.parametrize("void", [False, True])
def test_one_class_0_and_1(tmp_path: Path, void: bool) -> None:
    values = classes_map(2)
    if void:
        values[VOID] = 255
    split = read_set(write_set(tmp_path, [values], about={"classes": ["box"]}))
    assert split.labelling.classes == ClassSet(
        ("background", "box"), ((0, 0, 0), (255, 255, 255)),
        split.labelling.classes.overlay_colors, 0,
    )  # fmt: skip
    assert numpy.array_equal(loaded(split)[0], values)
    mapped = read_set(
        write_set(
            tmp_path / "b", [100 * (values == 1).astype("uint8")], about={"classes": ["box"]}
        ),
        label_options(label_map=["100=box"]),
    )
    assert numpy.array_equal(loaded(mapped)[0], values == 1)


# Labels that make no sense stop a run, unless they are trusted.


def test_sense_one_class_only(tmp_path: Path) -> None:
    root = write_set(tmp_path, [numpy.zeros(SIZE, "uint8")], about=NAMES)
    refused(root, "all pixels that count are of one class, ground", "--trust-labels")
    check_sense([read_set(root)], label_options(trusted=True))


def test_sense_nearly_all_void(tmp_path: Path) -> None:
    values = numpy.full(SIZE, 255, "uint8")
    values[0, :3] = 0, 1, 2
    root = write_set(tmp_path, [values], about=NAMES)
    refused(root, "99.6 % of the pixels are void", "labels 255", "--void", "--trust-labels")
    check_sense([read_set(root)], label_options(trusted=True))


def test_sense_everything_void(tmp_path: Path) -> None:
    refused(write_set(tmp_path, [numpy.full(SIZE, 255, "uint8")]), "every pixel of 1 files is void")


def test_sense_hundreds_of_classes(tmp_path: Path) -> None:
    values = numpy.random.default_rng(0).integers(0, 250, SIZE, dtype="uint8")
    root = write_set(tmp_path, [values])
    refused(root, "different labels", "lossy", "classes.json", "--trust-labels")
    assert len(read_set(root, label_options(trusted=True)).labelling.classes) > 200


def test_sense_smoothed_masks(tmp_path: Path) -> None:
    mask = Image.fromarray(255 * classes_map(2)).resize((64, 48), Image.Resampling.BILINEAR)
    small = numpy.asarray(mask)[::2, ::2]
    values = numpy.where(small < 100, 0, numpy.where(small > 150, 255, small)).astype("uint8")
    values[0, :9] = numpy.arange(40, 76, 4)
    for name, about in (("a", None), ("b", {"classes": ["box"]}), ("c", {"classes": ["x", "box"]})):
        root = write_set(tmp_path / name, [values], about=about)
        refused(root, "smoothed or saved lossily", "--trust-labels")


def test_sense_more_labels_than_any_label_map_has(tmp_path: Path) -> None:
    values = numpy.arange(300 * 300, dtype="int32").reshape(300, 300)
    refused(write_set(tmp_path, [values], as_dtype("int32"), ".tif"), "more than 65536 different")


# Files that contradict each other.


@pytest.mark.parametrize("about", [None, {"classes": ["ground", "box"]}, {"classes": ["box"]}])
@pytest.mark.parametrize("white", [255, 65535])
def test_contradictions_of_0_and_1_with_0_and_white(tmp_path: Path, about, white: int) -> None:  # type: ignore[no-untyped-def]
    """Also where the few files that are looked at first are of one kind (9.png is the last)."""
    maps = [classes_map(2, seed).astype("uint16") for seed in range(20)]
    maps[9] = white * maps[9]
    root = write_set(tmp_path, maps, as_dtype("uint16"), about=about)
    refused(root, f"0 and {white} in", "9.png", f"--label-map {white}=1", f"--void {white}")
    split = read_set(root, label_options(label_map=[f"{white}=1"]))
    assert numpy.array_equal(loaded(split)[-1], maps[9] > 0)
    if white == 255:
        assert (loaded(read_set(root, label_options(["255"])))[-1][maps[9] > 0] == 255).all()


@pytest.mark.parametrize("more", ["void beside 1", "a third class"])
def test_contradictions_are_none_where_255_is_void(tmp_path: Path, more: str) -> None:
    maps = [classes_map(2, seed) for seed in range(3)]
    maps[1] = 255 * maps[1]
    maps[2][VOID] = 255 if more == "void beside 1" else 2
    split = read_set(write_set(tmp_path, maps))
    assert (loaded(split)[1] == maps[1]).all()


def test_void_of_a_known_foreground_on_every_pixel(tmp_path: Path) -> None:
    root = write_set(tmp_path, [numpy.full(SIZE, 255, "uint8")], about={"classes": ["no", "yes"]})
    assert (loaded(read_set(root))[0] == 1).all()
    refused(root, "one class")
