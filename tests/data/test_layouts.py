"""Layouts: which there are, forced ones, and folders that have none."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("PIL.Image")

from label_cases import write_set
from layout_cases import MAP, voc

from fastseg.data import LAYOUTS, DatasetError, open_data_set


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
