"""PASCAL VOC, Cityscapes, ADE20K and CamVid: found by themselves, labels read right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

pytest.importorskip("PIL.Image")

from label_cases import classes_map, read_set
from layout_cases import MAP, counts, label, lines, photo, voc

from fastseg.classes import CAMVID, VOC, voc_colors
from fastseg.data import labelling_of, open_data_set
from fastseg.data.layouts.ade20k import ADE20K
from fastseg.data.layouts.cityscapes import CITYSCAPES

# PASCAL VOC


@pytest.mark.parametrize("above", ["", "VOC2012", "VOCdevkit/VOC2012"])
def test_voc(tmp_path: Path, above: str) -> None:
    voc(tmp_path / above)
    assert counts(tmp_path, "voc") == {"train": 2, "val": 1}
    line = open_data_set(tmp_path).line(["train", "val"])
    assert line.startswith("layout voc: 2 train, 1 val; ")
    assert "1 of 3 images of train.txt have no labels and are left out" in line
    split = read_set(tmp_path)
    assert split.labelling.classes is VOC
    assert split.void == 2 * 32 and numpy.array_equal(split.load(0)[1][1:], MAP[1:])


def test_voc_lists_with_paths_and_labels_drawn_later(tmp_path: Path) -> None:
    voc(tmp_path)
    label(tmp_path / "SegmentationClassAug" / "only_photo.png", MAP)
    lines(
        tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt",
        "/JPEGImages/a.jpg /SegmentationClassAug/a.png",
        "/JPEGImages/only_photo.jpg /SegmentationClassAug/only_photo.png",
    )
    assert counts(tmp_path, "voc") == {"test": 1, "train": 3, "trainaug": 2, "val": 1}


def test_voc_lists_of_names_with_spaces_and_dots(tmp_path: Path) -> None:
    names = ["2007.000001", "my photo 2", "scène.v2 3"]
    for name in names:
        photo(tmp_path / "JPEGImages" / f"{name}.jpg")
        label(tmp_path / "SegmentationClass" / f"{name}.png", MAP)
    folder = tmp_path / "ImageSets" / "Segmentation"
    lines(folder / "train.txt", names[0], names[1] + ".jpg")
    (folder / "val.txt").write_text(names[2], encoding="utf-16")
    assert counts(tmp_path, "voc") == {"train": 2, "val": 1}


@pytest.mark.parametrize("kind", ["labelmap.txt", "class_names.txt", "classes.json"])
def test_voc_with_classes_of_ones_own(tmp_path: Path, kind: str) -> None:
    voc(tmp_path)
    if kind == "labelmap.txt":
        colors = voc_colors(3)
        rows = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip("xyz", colors, strict=True)]
        lines(tmp_path / kind, "# label:color_rgb:parts:actions", *rows)
        for path in (tmp_path / "SegmentationClass").iterdir():  # as colours
            label(path, numpy.array(colors, "uint8")[MAP])
    elif kind == "class_names.txt":
        lines(tmp_path / kind, "__ignore__", "x", "y", "z")
    else:
        (tmp_path / kind).write_text('{"classes": ["x", "y", "z"]}')
    split = read_set(tmp_path)
    assert split.labelling.classes.names == ("x", "y", "z")
    assert numpy.array_equal(split.load(0)[1][1:], MAP[1:])


# Cityscapes


def cityscapes(root: Path, kind: str = "labelIds") -> Path:
    numbers = numpy.array([7, 24, 4, 33, 0])  # road, person, void, bicycle, void
    values = classes_map(5)
    for split, city, count in (("train", "aachen", 2), ("val", "bonn", 1), ("test", "rom", 1)):
        for index in range(count):
            name = f"{city}_{index:06d}_000019"
            photo(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            if split != "test":
                path = root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png"
                label(path, numbers[values].astype("uint8"))
                label(path.with_name(f"{name}_gtFine_instanceIds.png"), values)
    return root


def test_cityscapes(tmp_path: Path) -> None:
    cityscapes(tmp_path)
    assert counts(tmp_path, "cityscapes") == {"train": 2, "val": 1}
    line = open_data_set(tmp_path).line(["train"])
    assert "gtFine *_labelIds.png" in line and "1 images have no labels" in line
    data = open_data_set(tmp_path)
    labelling, said = labelling_of(data, data.splits["train"])
    assert "void -1 to 6, 9, 10, 14 to 16, 18, 29, 30, 255, from" in said[0]
    split = read_set(tmp_path)
    assert split.labelling.classes is labelling.classes is CITYSCAPES
    assert CITYSCAPES.names[11] == "person"
    assert numpy.array_equal(split.load(0)[1], numpy.array([0, 11, 255, 18, 255])[classes_map(5)])


@pytest.mark.parametrize("kind", ["labelTrainIds", "color"])
def test_cityscapes_other_label_files(tmp_path: Path, kind: str) -> None:
    cityscapes(tmp_path, kind)
    values = numpy.array([0, 11, 255, 18])[classes_map(4)]
    colors = numpy.zeros((256, 3), "uint8")
    colors[:19] = CITYSCAPES.colors
    for path in tmp_path.rglob(f"*_{kind}.png"):
        label(path, colors[values] if kind == "color" else values.astype("uint8"))
    assert numpy.array_equal(read_set(tmp_path).load(0)[1], values)


# ADE20K


@pytest.mark.parametrize("above", ["", "ADEChallengeData2016"])
def test_ade20k(tmp_path: Path, above: str) -> None:
    values = numpy.array([0, 1, 150], "uint8")[MAP]
    for split, count in (("training", 2), ("validation", 1)):
        for index in range(count):
            name = f"ADE_{split}_{index:08d}"
            photo(tmp_path / above / "images" / split / f"{name}.jpg")
            label(tmp_path / above / "annotations" / split / f"{name}.png", values)
    assert counts(tmp_path, "ade20k") == {"train": 2, "val": 1}
    assert "label 0 is void" in open_data_set(tmp_path).line(["train"])
    split = read_set(tmp_path)
    assert split.labelling.classes is ADE20K and len(ADE20K) == 150
    assert numpy.array_equal(split.load(0)[1], numpy.array([255, 0, 149])[MAP])
    (tmp_path / above / "classes.json").write_text(json.dumps({"classes": [*"abc"]}))
    for path in (tmp_path / above / "annotations").rglob("*.png"):
        label(path, MAP)
    split = read_set(tmp_path)  # a data set of one's own in folders of these names
    assert numpy.array_equal(split.load(0)[1], MAP)


# CamVid


def test_camvid_segnet(tmp_path: Path) -> None:
    values = numpy.array([0, 3, 11], "uint8")[MAP]
    for split, count in (("train", 2), ("val", 1), ("test", 1)):
        for index in range(count):
            photo(tmp_path / split / f"0001TP_{index:06d}.png")
            label(tmp_path / f"{split}annot" / f"0001TP_{index:06d}.png", values)
        lines(
            tmp_path / f"{split}.txt", f"/SegNet/CamVid/{split}/x.png /SegNet/CamVid/{split}annot"
        )
    assert counts(tmp_path, "camvid-segnet") == {"test": 1, "train": 2, "val": 1}
    split = read_set(tmp_path)
    assert split.labelling.classes is CAMVID
    assert numpy.array_equal(split.load(0)[1], numpy.array([0, 3, 255])[MAP])


def test_camvid_segnet_folders_with_labels_of_ones_own(tmp_path: Path) -> None:
    for split in ("train", "val"):
        photo(tmp_path / split / "a.png")
        label(tmp_path / f"{split}annot" / "a.png", 255 * classes_map(2))
    split = read_set(tmp_path)
    assert split.labelling.classes.names == ("background", "foreground")
    assert numpy.array_equal(split.load(0)[1], classes_map(2))


@pytest.mark.parametrize("kind", ["siblings", "full", "full with lists"])
def test_camvid_colours(tmp_path: Path, kind: str) -> None:
    colors = [(128, 128, 128), (0, 0, 192), (64, 0, 64), (0, 0, 0), (128, 0, 192)]
    expected = numpy.array([0, 4, 1, 255, 3])[classes_map(5)]  # sky, sidewalk, tunnel, void, lane
    names = [f"0016E5_{index:05d}" for index in range(3)]
    for index, name in enumerate(names):
        split = ("train", "train", "val")[index]
        images, labels = f"{split}", f"{split}_labels"
        if kind != "siblings":
            images, labels = "701_StillsRaw_full", "LabeledApproved_full"
        photo(tmp_path / images / f"{name}.png")
        label(tmp_path / labels / f"{name}_L.png", numpy.array(colors, "uint8")[classes_map(5)])
    if kind == "full with lists":
        lines(tmp_path / "train.txt", *names[:2])
        lines(tmp_path / "val.txt", f"{names[2]}_L.png")
    splits = {"": 3} if kind == "full" else {"train": 2, "val": 1}
    assert counts(tmp_path, "camvid") == splits
    split = read_set(tmp_path)
    assert split.labelling.classes is CAMVID
    assert numpy.array_equal(split.load(0)[1], expected)
