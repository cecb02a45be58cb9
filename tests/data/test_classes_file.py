"""classes.json: what it may hold, and one line that names the field for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from fastseg.classes import CAMVID, VOC
from fastseg.data import DatasetError
from fastseg.data.classes_file import read_classes_file


def write(root: Path, content: object, name: str = "classes.json") -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / name).write_bytes(data)
    return root


def test_names_void_and_palette(tmp_path: Path) -> None:
    assert read_classes_file(tmp_path) is None
    palette = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    about = {"classes": ["a", "b"], "ignore_label": [7, -1], "palette_rgb": palette, "notes": [1]}
    found = read_classes_file(write(tmp_path, about))
    assert found is not None
    assert found.classes.names == ("a", "b")
    assert found.classes.colors == ((1, 2, 3), (4, 5, 6))
    assert found.void == {7, -1}
    assert found.colors == {0x010203: 0, 0x040506: 1, 0x070809: 255}
    assert found.origin == str(tmp_path / "classes.json")
    for known in (VOC, CAMVID):
        found = read_classes_file(write(tmp_path, {"classes": known.names}))
        assert found is not None and found.classes is known and found.void is None


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16"], ids=["plain", "byte order mark", "two bytes"]
)
def test_encodings_of_editors(tmp_path: Path, encoding: str) -> None:
    about = write(tmp_path, '{"classes": ["Straße", "道"]}'.encode(encoding))
    found = read_classes_file(about)
    assert found is not None and found.classes.names == ("Straße", "道")


def test_other_files_beside_it(tmp_path: Path) -> None:
    """meta.json may be another program's; classes.json comes first."""
    assert read_classes_file(write(tmp_path, {"version": 1}, "meta.json")) is None
    found = read_classes_file(write(tmp_path, {"classes": ["m"], "x": {}}, "meta.json"))
    assert found is not None and found.classes.names == ("m",)
    found = read_classes_file(write(tmp_path, {"classes": ["c"]}))
    assert found is not None and found.classes.names == ("c",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["JSON"]),
        (b"{", ["JSON", "line 1"]),
        (b"\xff\xfe\x00", ["no text"]),
        (b"\x00" * 50, ["no text"]),
        (b"[" * 100_000, ["nested"]),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, ["nested"]),
        (b'{"classes": ["a"], "classes": ["b"]}', ["'classes' is there twice"]),
        (b'{"classes": Infinity}', ["classes is inf", "list"]),
        (b'{"classes": ["a"], "ignore_label": NaN}', ["ignore_label is nan"]),
        (b'{"classes": ["a"], "ignore_label": 1e400}', ["ignore_label"]),
        (b'{"classes": ["a"], "ignore_label": ' + b"9" * 5000 + b"}", ["5000 digits"]),
        ([], ["expected an object"]),
        (5, ["expected an object"]),
        ({}, ["classes is missing"]),
        ({"classes": []}, ["classes"]),
        ({"classes": "road"}, ["classes is 'road'"]),
        ({"classes": {"0": "road"}}, ["classes"]),
        ({"classes": ["a", 5]}, ["classes[1] is 5"]),
        ({"classes": ["a", None]}, ["classes[1] is null"]),
        ({"classes": ["a\nb"]}, ["classes[0]"]),
        ({"classes": ["a\ud800"]}, ["classes[0]"]),
        ({"classes": ["a" * 2000]}, ["classes[0]"]),
        ({"classes": ["a", "b", "a"]}, ["classes has 'a' twice"]),
        ({"classes": [f"c{i}" for i in range(256)]}, ["classes is a list of 256"]),
        ({"classes": ["a"], "ignore_label": "7"}, ["ignore_label is '7'"]),
        ({"classes": ["a"], "ignore_label": 1.5}, ["ignore_label is 1.5"]),
        ({"classes": ["a"], "ignore_label": True}, ["ignore_label is true"]),
        ({"classes": ["a"], "ignore_label": [1, "b"]}, ["ignore_label[1] is 'b'"]),
        ({"classes": ["a"], "ignore_label": 2**70}, ["ignore_label"]),
        ({"classes": ["a"], "ignore_index": 255}, ["ignore_index is not known", "ignore_label"]),
        ({"classes": ["a"], "ignore_labels": 255}, ["ignore_labels is not known", "ignore_label"]),
        ({"classes": ["a"], "palette": [[0, 0, 0]]}, ["palette is not known", "palette_rgb"]),
        ({"classes": ["a"], "palette_rgb": [0, 0, 0]}, ["palette_rgb[0] is 0"]),
        ({"classes": ["a"], "palette_rgb": [[0, 0]]}, ["palette_rgb[0] is a list of 2"]),
        ({"classes": ["a"], "palette_rgb": [[0, 0, 256]]}, ["palette_rgb[0][2] is 256"]),
        ({"classes": ["a"], "palette_rgb": [[0, 0, 0.5]]}, ["palette_rgb[0][2] is 0.5"]),
        ({"classes": ["a", "b"], "palette_rgb": [[0, 0, 0]]}, ["has 1 colours, classes 2"]),
        ({"classes": ["a", "b"], "palette_rgb": [[0, 0, 0]] * 2}, ["[0, 0, 0] twice"]),
    ],
)
def test_everything_else_is_refused_in_one_line(
    tmp_path: Path, content: object, words: list[str]
) -> None:
    with pytest.raises(DatasetError) as caught:
        read_classes_file(write(tmp_path, content))
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    assert text.startswith(str(tmp_path / "classes.json"))
    for word in words:
        assert word in text, text


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "classes.json").mkdir()
    assert read_classes_file(tmp_path) is None
