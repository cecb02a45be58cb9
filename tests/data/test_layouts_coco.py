"""COCO: found by itself, polygons and run lengths drawn right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

pytest.importorskip("PIL.Image")

from label_cases import SIZE, read_set
from layout_cases import counts, photo

from fastseg.data import DatasetError, open_data_set


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
