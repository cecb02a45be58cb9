"""A split: counts, memory, and files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from tiny_data import make_dataset, read  # noqa: E402

from fastseg.classes import CAMVID  # noqa: E402
from fastseg.data import DatasetError, Split, label_options, labelling_of, open_data_set  # noqa: E402


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "set", {"train": 3, "val": 2})


def test_layout_classes_and_counts(root: Path) -> None:
    splits = open_data_set(root).splits
    assert {name: len(pairs) for name, pairs in splits.items()} == {"train": 3, "val": 2}
    split = read(root, "train")
    assert split.labelling.classes.names == ("ground", "box", "sky")
    labels = [split.load(i)[1] for i in range(3)]
    assert split.pixels.tolist() == [sum(int((v == c).sum()) for v in labels) for c in range(3)]
    assert split.void == sum(int((v == 255).sum()) for v in labels) == 3 * 3 * 64
    assert split.pixels.sum() + split.void == 3 * 48 * 64
    assert split.pixels_around.tolist() == 3 * [3 * 48 * 64]
    assert split.sizes == 3 * [(48, 64)]


def test_cached_or_read_again_is_the_same(root: Path) -> None:
    cached, partly, never = (read(root, "train", size) for size in (1 << 30, 20_000, 0))
    assert cached.cached_bytes == 3 * 48 * 64 * 4
    assert partly.cached_bytes == 48 * 64 * 4
    assert never.cached_bytes == 0
    for index in range(3):
        for other in (partly, never):
            for a, b in zip(cached.load(index), other.load(index), strict=True):
                assert numpy.array_equal(a, b)


def test_progress_counts_every_file(root: Path) -> None:
    seen = []
    data = open_data_set(root)
    pairs = data.splits["train"]
    Split(
        "train", pairs, labelling_of(data, pairs)[0], threads=2,
        progress=lambda *numbers: seen.append(numbers),
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_folders_without_splits_and_with_subfolders(tmp_path: Path) -> None:
    flat = make_dataset(tmp_path / "flat", {"": 2})
    assert [pair.name for pair in open_data_set(flat).splits[""]] == ["0", "1"]
    deep = make_dataset(tmp_path / "deep", {"train/street": 1, "train/lake": 1})
    assert [pair.name for pair in open_data_set(deep).splits["train"]] == ["lake/0", "street/0"]


def test_classes_from_labels_and_palette(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, {"train": 1}, names=False)
    data = open_data_set(root)
    labelling, _ = labelling_of(data, data.splits["train"])
    assert labelling.classes.names == ("class 0", "class 1", "class 2")
    assert labelling.origin == "the labels of 1 files"
    path = root / "labels" / "train" / "0.png"
    with Image.open(path) as opened:
        image = opened.copy()
    image.putpalette([9, 8, 7, 6, 5, 4, 3, 2, 1] + 759 * [0])
    image.save(path)
    data = open_data_set(root)
    labelling, _ = labelling_of(data, data.splits["train"])
    assert labelling.classes.colors == ((9, 8, 7), (6, 5, 4), (3, 2, 1))


def test_ignored_labels(root: Path) -> None:
    content = {"classes": ["ground", "box"], "ignore_label": 2}
    (root / "classes.json").write_text(json.dumps(content))
    split = read(root, "train")
    assert split.labelling.void == [2, 255]
    assert split.pixels.shape == (2,)
    assert split.void == 3 * (3 + 6) * 64
    data = open_data_set(root)
    pairs = data.splits["train"]
    other = Split("train", pairs, labelling_of(data, pairs, label_options(["1,2"]))[0])
    assert other.pixels[1] == 0


def write_label(root: Path, values: numpy.ndarray) -> None:
    image = Image.fromarray(values)
    image.save(root / "labels" / "train" / "1.png", "TIFF" if image.mode == "I" else "PNG")


def broken_image(root: Path) -> None:
    path = root / "images" / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken_image, ("images/train/1.png",)),
        (lambda root: write_label(root, numpy.zeros((47, 64), "uint8")), ("1.png", "64x47")),
        (lambda root: write_label(root, numpy.full((48, 64), 7, "uint8")), ("label 7", "0 to 2")),
        (lambda root: write_label(root, numpy.full((48, 64), 900, "uint16")), ("label 900",)),
        (lambda root: write_label(root, numpy.full((48, 64), -2, "int32")), ("label -2",)),
        (lambda root: write_label(root, numpy.full((48, 64, 3), (1, 2, 3), "uint8")), ("#010203",)),
        (lambda root: (root / "labels/train/1.png").write_bytes(b"x"), ("labels/train/1.png",)),
        (lambda root: (root / "labels/train/1.png").unlink(), ("images/train/1.png", "no file")),
        (lambda root: (root / "images/train/1.png").unlink(), ("labels/train/1.png", "no file")),
        (lambda root: (root / "classes.json").write_text("{"), ("classes.json",)),
        (lambda root: (root / "classes.json").write_text("{}"), ("classes.json", "expected")),
        (
            lambda root: (root / "classes.json").write_text(
                '{"classes": ["a"], "ignore_label": "0"}'
            ),
            ("ignore_label",),
        ),
        (lambda root: (root / "labels").rename(root / "other"), ("labels/",)),
    ],
)
def test_wrong_files_are_named(root: Path, change, words: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    change(root)
    with pytest.raises(DatasetError) as caught:
        read(root, "train")
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_camvid(shared_data: Path) -> None:
    """The counts of the validation split are those that its description holds."""
    root = shared_data / "camvid"
    meta = json.loads((root / "meta.json").read_text())
    data = open_data_set(root)
    splits = data.splits
    assert {n: len(p) for n, p in splits.items()} == {"train": 367, "val": 101, "test": 233}
    labelling, _ = labelling_of(data, splits["val"])
    assert labelling.classes is CAMVID
    assert labelling.void == [11, 255]
    assert [list(color) for color in CAMVID.colors] == meta["palette_rgb"][:11]
    split = Split("val", splits["val"], labelling, threads=2)
    assert [*split.pixels.tolist(), split.void] == meta["splits"]["val"]["pixels"]
