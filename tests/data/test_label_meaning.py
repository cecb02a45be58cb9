"""What label files mean: the ways in which they are written, and each kind of fault."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from label_cases import (  # noqa: E402
    SIZE,
    classes_map,
    palette_image,
    read_set,
    write_pgm,
    write_png,
    write_set,
)

from fastseg.classes import CAMVID, VOC, ClassSet  # noqa: E402
from fastseg.data import (  # noqa: E402
    DatasetError,
    Split,
    check_sense,
    label_options,
    labelling_of,
    open_data_set,
)
from fastseg.data.layouts.ade20k import ADE20K  # noqa: E402
from fastseg.data.layouts.cityscapes import CITYSCAPES  # noqa: E402

NAMES = {"classes": ["ground", "box", "sky"]}
VOID = numpy.zeros(SIZE, dtype=bool)
VOID[:3] = True


def loaded(split: Split) -> list[numpy.ndarray]:
    return [split.load(index)[1] for index in range(len(split))]


def refused(root: Path, *words: str, **options: object) -> str:
    """The one line with which a data set is refused."""
    with pytest.raises(DatasetError) as caught:
        split = read_set(root, label_options(**options))  # type: ignore[arg-type]
        check_sense([split], label_options(**options))  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text
    return text


# How deep a file is, and in which mode.


def as_mode(mode: str):  # type: ignore[no-untyped-def]
    def write(path: Path, values: numpy.ndarray) -> None:
        Image.fromarray(values).convert(mode).save(path)

    return write


def as_dtype(dtype: str):  # type: ignore[no-untyped-def]
    def write(path: Path, values: numpy.ndarray) -> None:
        if path.suffix == ".npy":
            numpy.save(path, values.astype(dtype))
        else:
            Image.fromarray(values.astype(dtype)).save(path)

    return write


def with_alpha(path: Path, values: numpy.ndarray) -> None:
    Image.merge("LA", [Image.fromarray(values), Image.new("L", SIZE[::-1], 255)]).save(path)


def in_palette(path: Path, values: numpy.ndarray) -> None:
    palette_image(values, numpy.random.default_rng(0).integers(0, 256, (256, 3))).save(path)


DEPTHS = {
    "grey of 2 bits": (lambda p, v: write_png(p, v, 2), ".png"),
    "grey of 4 bits": (lambda p, v: write_png(p, v, 4), ".png"),
    "grey of 8 bits": (lambda p, v: write_png(p, v, 8), ".png"),
    "grey of 16 bits": (lambda p, v: write_png(p, v, 16), ".png"),
    "opaque alpha": (with_alpha, ".png"),
    "three equal channels": (as_mode("RGB"), ".png"),
    "three equal channels and alpha": (as_mode("RGBA"), ".png"),
    "palette": (in_palette, ".png"),
    "TIFF of 16 bits": (as_dtype("uint16"), ".tif"),
    "TIFF of 32 bits": (as_dtype("int32"), ".tif"),
    "TIFF of floats": (as_dtype("float32"), ".tif"),
    "BMP": (as_mode("L"), ".bmp"),
    "lossless WebP": (lambda p, v: Image.fromarray(v).save(p, lossless=True), ".webp"),
    "PGM": (lambda p, v: write_pgm(p, v, 255), ".pgm"),
    "PGM with another white": (lambda p, v: write_pgm(p, v, 20), ".pgm"),
    "PGM of 16 bits": (lambda p, v: write_pgm(p, v, 1000), ".pgm"),
    "array of bytes": (as_dtype("uint8"), ".npy"),
    "array of int64": (as_dtype("int64"), ".npy"),
    "array of floats": (as_dtype("float64"), ".npy"),
    "array of 3 dimensions": (lambda p, v: numpy.save(p, v[..., None]), ".npy"),
}


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("named", [True, False])
def test_depth_and_mode_do_not_change_labels(tmp_path: Path, kind: str, named: bool) -> None:
    write, suffix = DEPTHS[kind]
    maps = [classes_map(3, seed) for seed in range(2)]
    split = read_set(write_set(tmp_path, maps, write, suffix, NAMES if named else None))
    assert len(split.labelling.classes) == 3
    for label, expected in zip(loaded(split), maps, strict=True):
        assert numpy.array_equal(label, expected)


def test_depth_one_bit_is_background_and_foreground(tmp_path: Path) -> None:
    maps = [classes_map(2)]
    for name, write in (("png", lambda p, v: write_png(p, v, 1)), ("pillow", as_mode("1"))):
        scaled = [255 * m for m in maps] if name == "pillow" else maps
        split = read_set(write_set(tmp_path / name, scaled, write))
        assert numpy.array_equal(loaded(split)[0], maps[0])


@pytest.mark.parametrize(
    ("write", "suffix", "words"),
    [
        (lambda p, v: write_png(p, numpy.stack([v, v], -1), 16, 2), ".png", ["16 bits"]),
        (lambda p, v: write_png(p, numpy.stack([v] * 3, -1), 16, 3), ".png", ["16 bits"]),
        (lambda p, v: Image.fromarray(v).convert("CMYK").save(p), ".tif", ["mode CMYK"]),
        (lambda p, v: numpy.save(p, v + 0.5), ".npy", ["fraction"]),
        (lambda p, v: numpy.save(p, v + 0j), ".npy", ["complex128"]),
        (lambda p, v: numpy.save(p, numpy.zeros((2, 24, 32))), ".npy", ["(2, 24, 32)"]),
        (lambda p, v: numpy.save(p, numpy.array({}), allow_pickle=True), ".npy", ["numbers"]),
        (lambda p, v: p.write_bytes(b"\x93NUMPY\x01\0\x10\0{'descr': 1"), ".npy", ["damaged"]),
    ],
)
def test_depth_that_holds_no_labels_is_refused(tmp_path: Path, write, suffix, words) -> None:  # type: ignore[no-untyped-def]
    refused(write_set(tmp_path, [classes_map()], write, suffix, NAMES), f"0{suffix}", *words)


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    def write(path: Path, values: numpy.ndarray) -> None:
        alpha = Image.fromarray(255 * (values > 0).astype(numpy.uint8))
        Image.merge("LA", [Image.fromarray(values), alpha]).save(path)

    root = write_set(tmp_path, [classes_map()], write, about=NAMES)
    refused(root, "256 pixels are transparent")


def test_several_pictures_in_one_file_are_refused(tmp_path: Path) -> None:
    def write(path: Path, values: numpy.ndarray) -> None:
        image = Image.fromarray(values)
        image.save(path, save_all=True, append_images=[image, image])

    refused(write_set(tmp_path, [classes_map()], write, ".tif", NAMES), "holds 3 pictures")


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


# Greys and colours that stand for classes.


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


# Lossy files.


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png", ".tif", ".jp2"])
def test_lossy_files_are_refused_whatever_their_name(tmp_path: Path, suffix: str) -> None:
    kind = {".jpg": "JPEG", ".webp": "WEBP", ".png": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000"}
    options = {".tif": {"compression": "jpeg"}}.get(suffix, {})

    def write(path: Path, values: numpy.ndarray) -> None:
        data = io.BytesIO()
        Image.fromarray(values).save(data, kind[suffix], **options)
        path.write_bytes(data.getvalue())

    root = write_set(tmp_path, [classes_map(3)], write, suffix, NAMES)
    refused(root, f"0{suffix}", f"lossy {kind[suffix]}", "save label maps as PNG")


# EXIF.


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


# Small files, large cost.


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_cost_of_large_label_files_is_refused_first(tmp_path: Path, suffix: str) -> None:
    """Files of a few bytes that claim 13300 x 13300 pixels."""
    root = write_set(tmp_path, [classes_map(3)], about=NAMES)
    (root / "labels" / "0.png").unlink()
    path = root / "labels" / f"0{suffix}"
    if suffix == ".png":
        write_png(path, numpy.zeros((1, 8), "uint8"), 8)
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", 13300, 13300)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
        path.write_bytes(data)
    else:
        head = b"{'descr': '<i4', 'fortran_order': False, 'shape': (13300, 13300), }"
        path.write_bytes(b"\x93NUMPY\x01\0v\0" + head.ljust(117) + b"\n")
    refused(root, "13300 x 13300 pixels", "--max-pixels")
