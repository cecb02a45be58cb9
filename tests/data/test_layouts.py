"""Data sets as people have them: each layout found by itself, its labels read right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

Image = pytest.importorskip("PIL.Image")

from label_cases import SIZE, classes_map, palette_image, read_set, write_set  # noqa: E402

from fastseg.classes import CAMVID, VOC, voc_colors  # noqa: E402
from fastseg.data import LAYOUTS, DatasetError, labelling_of, open_data_set  # noqa: E402
from fastseg.data.layouts.ade20k import ADE20K  # noqa: E402
from fastseg.data.layouts.cityscapes import CITYSCAPES  # noqa: E402

MAP = classes_map(3)


def photo(path: Path, size: tuple[int, int] = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = numpy.random.default_rng(0).integers(0, 256, (*size, 3), dtype="uint8")
    Image.fromarray(values).save(path)
    return path


def label(path: Path, values: numpy.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def lines(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def counts(root: Path, layout: str) -> dict[str, int]:
    """The splits that are found, and that the layout is found without being named."""
    data = open_data_set(root)
    assert data.layout == layout
    forced = open_data_set(data.root, layout)
    assert {name: len(pairs) for name, pairs in forced.splits.items()} == {
        name: len(pairs) for name, pairs in data.splits.items()
    }
    assert data.line(data.splits).startswith(f"layout {layout}: ")
    return {name: len(pairs) for name, pairs in data.splits.items()}


# PASCAL VOC


def voc(root: Path) -> Path:
    for name in ("a", "b", "c", "only_photo"):
        photo(root / "JPEGImages" / f"{name}.jpg")
    for name in ("a", "b", "c"):
        values = MAP.copy()
        values[0] = 255
        path = root / "SegmentationClass" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        palette_image(values, numpy.array(voc_colors(256))).save(path)
    sets = root / "ImageSets" / "Segmentation"
    lines(sets / "train.txt", "a", "b", "only_photo")
    lines(sets / "val.txt", "c")
    lines(sets / "test.txt", "only_photo")
    return root


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


# COCO


def coco(root: Path, layout: str) -> Path:
    pytest.importorskip("pycocotools")
    from pycocotools import mask

    whole = numpy.zeros(SIZE, "uint8", order="F")
    whole[8:16, 8:16] = 1
    runs = mask.encode(whole)
    about = {
        "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        "images": [
            {"id": 5, "file_name": "a.png", "height": 24, "width": 32},
            {"id": 9, "file_name": "b.png", "height": 24, "width": 32},
        ],
        "annotations": [
            # A small cat on a large dog, a crowd as run lengths, and one as compressed ones.
            {"image_id": 5, "category_id": 7, "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]]},
            {"image_id": 5, "category_id": 3, "segmentation": [[0, 0, 20, 0, 20, 20, 0, 20]]},
            {"image_id": 5, "category_id": 7, "iscrowd": 1, "segmentation": {
                "size": [24, 32], "counts": [24 * 30, 24 * 2]}},
            {"image_id": 9, "category_id": 7, "segmentation": {
                "size": [24, 32], "counts": runs["counts"].decode()}},
        ],
    }  # fmt: skip
    if layout == "annotations":
        path, images = root / "annotations" / "instances_train2017.json", root / "train2017"
    else:
        path = root / "train" / "_annotations.coco.json"
        images = path.parent
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(about))
    for name in "ab":
        photo(images / f"{name}.png")
    return path


@pytest.mark.parametrize("layout", ["annotations", "in the folder"])
def test_coco(tmp_path: Path, layout: str) -> None:
    path = coco(tmp_path, layout)
    assert counts(tmp_path, "coco") == {"train": 2}
    split = read_set(tmp_path)
    assert split.labelling.classes.names == ("background", "dog", "cat")
    first, second = (split.load(i)[1] for i in range(2))
    assert first[4, 4] == 2 and first[10, 10] == 1 and first[22, 22] == 0
    assert (first[:, 30:] == 255).all() and not (first[:, :30] == 255).any()
    assert ((second == 2) == (numpy.pad(numpy.ones((8, 8)), ((8, 8), (8, 16))) > 0)).all()
    assert open_data_set(path).splits.keys() == {"train"} if layout == "annotations" else True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": []}, ["0 categories"]),
        ({"categories": [{"id": 1}]}, ["categories[0].name"]),
        ({"images": [{"id": 5, "file_name": "x.png", "height": 24, "width": 32}]}, ["x.png"]),
        ({"images": [{"id": 5, "file_name": "a.png", "height": 30, "width": 32}]}, ["size is [24"]),
        (
            {"images": [{"id": 5, "file_name": "a.png", "height": 10**6, "width": 10**6}]},
            ["allowed"],
        ),
        ({"annotations": [5]}, ["annotations[0]"]),
        ({"annotations": {}}, ["lists images, annotations"]),
        ({"segmentation": [[1, 2]]}, ["a polygon has 2 numbers"]),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e30]]}, ["far outside"]),
        ({"segmentation": [["a"] * 6]}, ["damaged"]),
        ({"segmentation": {"size": [24, 32], "counts": [10**9]}}, ["do not add up"]),
        ({"segmentation": {"size": [24, 32], "counts": [-1, 769]}}, ["do not add up"]),
        ({"segmentation": {"size": [24, 32], "counts": "\x7f\x7f"}}, ["damaged"]),
        ({"segmentation": {"size": [24, 32], "counts": "oooo"}}, ["damaged"]),
        ({"segmentation": {"size": [2, 2], "counts": [4]}}, ["size is [2, 2]"]),
        ({"segmentation": {"size": 5}}, ["damaged"]),
    ],
)
def test_coco_that_is_damaged_is_refused_in_one_line(tmp_path: Path, change, words) -> None:  # type: ignore[no-untyped-def]
    path = coco(tmp_path, "annotations")
    about = json.loads(path.read_text())
    if "segmentation" in change:
        about["annotations"][0] |= change
    else:
        about |= change
    path.write_text(json.dumps(about))
    with pytest.raises(DatasetError) as caught:
        read_set(tmp_path)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    for word in words:
        assert word in str(caught.value)


# Folders and pairs


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
    ("row", "words"),
    [("x/0.jpg", "row 3"), ("x/9.jpg,y/0.png", "x/9.jpg: no such file"), (",", "row")],
)
def test_csv_rows_that_are_wrong_are_named(tmp_path: Path, row: str, words: str) -> None:
    photo(tmp_path / "x" / "0.jpg")
    label(tmp_path / "y" / "0.png", MAP)
    lines(tmp_path / "p.csv", "image,label", "x/0.jpg,y/0.png", row)
    with pytest.raises(DatasetError, match=words):
        open_data_set(tmp_path)


# What is none of these


def test_layouts_are_listed_where_none_fits(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DatasetError) as caught:
        open_data_set(tmp_path)
    assert "\n" not in str(caught.value)
    for name in LAYOUTS:
        assert f"{name}: " in str(caught.value)


def test_layouts_may_be_forced(tmp_path: Path) -> None:
    write_set(tmp_path, [MAP])
    with pytest.raises(DatasetError, match="is not in the layout voc: JPEGImages"):
        open_data_set(tmp_path, "voc")
    with pytest.raises(DatasetError, match="--layout is 'x', allowed are voc, cityscapes"):
        open_data_set(tmp_path, "x")
    with pytest.raises(DatasetError, match="no such folder"):
        open_data_set(tmp_path / "nowhere")


def test_layouts_of_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    voc(tmp_path / "VOC2007")
    voc(tmp_path / "VOC2012")
    with pytest.raises(DatasetError, match="several data sets, give one of them: VOC2007, VOC2012"):
        open_data_set(tmp_path)
