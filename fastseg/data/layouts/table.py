"""A csv file whose rows name an image and its label file."""

from __future__ import annotations

import csv
from pathlib import Path

from ..labelling import DatasetError
from .base import Found, Layout, Pair
from .files import LABEL_SUFFIXES, listed

_IMAGE = ("image", "images", "img", "photo", "input", "file", "filename", "image_path", "img_path")
_LABEL = ("label", "labels", "mask", "masks", "annotation", "target", "gt", "segmentation",
          "label_path", "mask_path", "seg")  # fmt: skip
_SPLIT = ("split", "subset", "set", "partition")


def _tables(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix.lower() == ".csv" else []
    found = sorted(p for p in root.glob("*.csv") if not p.name.startswith("."))
    return [path for path in found if _columns(path) is not None]


def _rows(path: Path) -> list[list[str]]:
    lines = listed(path)
    delimiter = max(",;\t", key=lambda mark: lines[0].count(mark)) if lines else ","
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise DatasetError(f"{path}: {error}") from error


def _columns(path: Path) -> tuple[int, int, int | None, bool] | None:
    """Where image, label and split stand, and whether the first row names them."""
    try:
        rows = _rows(path)
    except DatasetError:
        return None
    if not rows or len(rows[0]) < 2:
        return None
    heads = [cell.lower().replace(" ", "_") for cell in rows[0]]

    def column(names: tuple[str, ...]) -> int | None:
        return next((heads.index(name) for name in names if name in heads), None)

    image, label = column(_IMAGE), column(_LABEL)
    if image is not None and label is not None:
        return image, label, column(_SPLIT), True
    if all(Path(cell).suffix.lower() in LABEL_SUFFIXES for cell in rows[0][:2]):
        return 0, 1, 2 if len(rows[0]) > 2 else None, False
    return None


def matches(root: Path) -> bool:
    return (root.is_file() or root.is_dir()) and bool(_tables(root))


def read(root: Path) -> Found:
    splits: dict[str, list[Pair]] = {}
    tables = _tables(root)
    if not tables:
        raise DatasetError(f"{root}: expected {LAYOUT.form}")
    for path in tables:
        columns = _columns(path)
        if columns is None:
            raise DatasetError(f"{path}: {_first_row(path)}; expected {LAYOUT.form}")
        image_at, label_at, split_at, headed = columns
        default = path.stem if len(tables) > 1 or path.stem in ("train", "val") else ""
        for number, row in enumerate(_rows(path)[headed:], 1 + headed):
            if len(row) == 1 and row[0].startswith("#"):  # a comment
                continue
            if len(row) <= max(image_at, label_at):
                raise DatasetError(f"{path}, row {number}: has {len(row)} columns")
            split = row[split_at] if split_at is not None and split_at < len(row) else default
            image = _file(path, number, row[image_at])
            name = Path(row[image_at].replace("\\", "/")).with_suffix("").as_posix()
            splits.setdefault(split, []).append(
                Pair(name, image, _file(path, number, row[label_at]))
            )
    if not splits:
        raise DatasetError(f"{root}: names no images")
    return Found({name: sorted(splits[name], key=lambda p: p.name) for name in sorted(splits)})


def _first_row(path: Path) -> str:
    """Its first row, for an error. Raises DatasetError if the file cannot be read."""
    rows = _rows(path)
    return f"its first row is {','.join(rows[0])[:60]!r}" if rows else "is empty"


def _file(table: Path, row: int, text: str) -> Path:
    # Tables written on Windows name folders with backslashes.
    for name in (text, text.replace("\\", "/")):
        if name and (table.parent / name).is_file():
            return table.parent / name
    raise DatasetError(f"{table}, row {row}: {text or 'an empty cell'}: no such file")


LAYOUT = Layout(
    "csv",
    "a csv file with columns image and label (perhaps split), or train.csv and val.csv",
    matches,
    read,
)
