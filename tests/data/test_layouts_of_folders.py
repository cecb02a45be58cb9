"""Folders, pairs and csv files: found by themselves, labels read right."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

pytest.importorskip("PIL.Image")

from label_cases import read_set
from layout_cases import MAP, counts, label, lines, photo

from fastseg.data import DatasetError, open_data_set


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("images/train", "masks/train"),
        ("img_dir/train", "ann_dir/train"),
        ("Images/train", "Labels/train"),
        ("train/images", "train/masks"),
        ("train/img", "train/label"),
    ],
)
@pytest.mark.parametrize("end", ["", "_mask", "_label", "_L", "-gt"])
def test_folders(tmp_path: Path, images: str, labels: str, end: str) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            photo(tmp_path / images.replace("train", split) / f"{name}.jpg")
            label(tmp_path / labels.replace("train", split) / f"{name}{end}.png", MAP)
    if end == "_L" and images == "images/train":
        return  # Labels/ with NAME_L.png are CamVid's
    if open_data_set(tmp_path).layout != "camvid":
        assert counts(tmp_path, "folders") == {"train": 2, "val": 2}
        assert numpy.array_equal(read_set(tmp_path).load(0)[1], MAP)


def test_folders_other_names_of_splits(tmp_path: Path) -> None:
    for split in ("training", "valid"):
        photo(tmp_path / "images" / split / "a.jpg")
        label(tmp_path / "masks" / split / "a.png", MAP)
    data = open_data_set(tmp_path)
    assert (data.split("train"), data.split("val"), data.split("test")) == (
        "training", "valid", None,
    )  # fmt: skip


@pytest.mark.parametrize("end", ["masks", "labels", "mask", "annotations"])
def test_siblings(tmp_path: Path, end: str) -> None:
    for split in ("train", "val"):
        photo(tmp_path / split / "a.jpg")
        label(tmp_path / f"{split}_{end}" / "a_mask.png", MAP)
    assert counts(tmp_path, "siblings") == {"train": 1, "val": 1}
    assert numpy.array_equal(read_set(tmp_path).load(0)[1], MAP)


@pytest.mark.parametrize("end", ["_mask", "_label", "_seg", "-gt", "_masks", ".mask"])
@pytest.mark.parametrize("splits", [False, True])
def test_pairs(tmp_path: Path, end: str, splits: bool) -> None:
    for split in ("train", "val") if splits else ("",):
        for name in ("cat_1", "dog"):
            photo(tmp_path / split / f"{name}.jpg")
            label(tmp_path / split / f"{name}{end}.png", MAP)
        photo(tmp_path / split / "alone.jpg")
    expected = {"train": 2, "val": 2} if splits else {"": 2}
    assert counts(tmp_path, "pairs") == expected
    assert f"{2 if splits else 1} images have no labels" in open_data_set(tmp_path).line(expected)
    assert numpy.array_equal(read_set(tmp_path).load(1)[1], MAP)


def test_pairs_of_satellites(tmp_path: Path) -> None:
    photo(tmp_path / "7_sat.jpg")
    label(tmp_path / "7_mask.png", MAP)
    assert counts(tmp_path, "pairs") == {"": 1}


def test_pairs_mask_without_image_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg")
    label(tmp_path / "a_mask.png", MAP)
    label(tmp_path / "b_mask.png", MAP)
    with pytest.raises(DatasetError, match=r"b_mask\.png: no image called b"):
        open_data_set(tmp_path)


@pytest.mark.parametrize("form", ["headed", "no header", "semicolons", "with splits", "two files"])
def test_csv(tmp_path: Path, form: str) -> None:
    for index in range(3):
        photo(tmp_path / "x" / f"{index}.jpg")
        label(tmp_path / "y" / f"{index}.png", MAP)
    rows = [f"x/{index}.jpg,y/{index}.png" for index in range(3)]
    path = tmp_path / "pairs.csv"
    expected = {"": 3}
    if form == "no header":
        lines(path, *rows)
    elif form == "semicolons":
        lines(path, "id;Image;Mask", *(f"1;{row.replace(',', ';')}" for row in rows))
    elif form == "with splits":
        lines(path, "image,label,split", *(f"{r},{s}" for r, s in zip(rows, "ttv", strict=True)))
        expected = {"t": 2, "v": 1}
    elif form == "two files":
        lines(tmp_path / "train.csv", "image_path,mask_path", *rows[:2])
        lines(tmp_path / "val.csv", "image_path,mask_path", *rows[2:])
        lines(tmp_path / "class_dict.csv", "name,r,g,b", "x,1,2,3")
        expected = {"train": 2, "val": 1}
    else:
        lines(path, "image,label", *rows)
    assert counts(tmp_path, "csv") == expected
    if path.exists():
        assert open_data_set(path).splits == open_data_set(tmp_path).splits


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-8, backslashes"]
)
def test_csv_as_spreadsheets_write_it(tmp_path: Path, encoding: str) -> None:
    photo(tmp_path / "my images" / "façade 1.jpg")
    label(tmp_path / "y" / "façade 1.png", MAP)
    rows = ["image;label", "# by hand", "my images/façade 1.jpg;y/façade 1.png"]
    encoding, _, backslashes = encoding.partition(", ")
    text = "\r\n".join(row.replace("/", "\\") if backslashes else row for row in rows)
    (tmp_path / "p.csv").write_bytes(text.encode(encoding))
    (pair,) = open_data_set(tmp_path / "p.csv").splits[""]
    assert (pair.name, pair.image) == ("my images/façade 1", tmp_path / "my images/façade 1.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"foo,bar\n1,2\n", "its first row is 'foo,bar'; expected a csv file with columns image"),
        (b"", "is empty"),
        (b"\0\1\2,\0", "is no text"),
        (b"\xff\xfe\0", "is no text"),
    ],
)
def test_csv_that_is_none_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "p.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=words):
        open_data_set(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("row", "words"),
    [("x/0.jpg", "row 3"), ("x/9.jpg,y/0.png", "x/9.jpg: no such file"), (",", "row")],
)
def test_csv_rows_that_are_wrong_are_named(tmp_path: Path, row: str, words: str) -> None:
    photo(tmp_path / "x" / "0.jpg")
    label(tmp_path / "y" / "0.png", MAP)
    lines(tmp_path / "p.csv", "image,label", "x/0.jpg,y/0.png", row)
    with pytest.raises(DatasetError, match=words):
        open_data_set(tmp_path)
