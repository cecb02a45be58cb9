"""Options about labels: which are void, and which class each stands for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from .._files import read_lines
from .._json import read_json
from .._messages import reason
from .._schema import Integer, Table, Text, either
from .labelling import DatasetError

DRAWN = ("auto", "stored", "upright")
_NUMBER = re.compile(r"-?[0-9]{1,19}")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_LARGEST = 2**63 - 1
_FILE_BYTES = 1 << 20
_VOID_NAMES = ("void", "ignore")
_MAP = Table(either(Integer(-_LARGEST, _LARGEST), Text()), longest=65536)


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Options of the command line about labels.

    Attributes:
        void: numbers that count nowhere; an empty set is "none", None leaves it to the data set.
        numbers, colors: class (its index or name, "void" for none) of a number or of a colour
            0xRRGGBB; labels that are not named mean what they meant.
        drawn: "auto", or what `Labelling.drawn` holds.
        trusted: whether labels that seem to make no sense are used all the same.
    """

    void: frozenset[int] | None = None
    numbers: Mapping[int, int | str] = dataclasses.field(default_factory=dict)
    colors: Mapping[int, int | str] = dataclasses.field(default_factory=dict)
    drawn: str = "auto"
    trusted: bool = False


def label_options(
    void: Iterable[str] = (),
    label_map: Iterable[str] = (),
    drawn: str = "auto",
    trusted: bool = False,
) -> LabelOptions:
    """Options from the words of the command line.

    Args:
        void: each "none", or numbers with commas between them.
        label_map: each "147=1,220=2", or a file with such pairs in its lines or with a JSON object.
            Left of "=" stands a number or a colour #rrggbb, right a class or "void".
        drawn: "auto", "stored" or "upright", see `Labelling`.
        trusted: whether to use labels that seem to make no sense.

    Returns:
        The options.

    Raises:
        DatasetError: words that cannot be read; the message names the option.
    """
    if drawn not in DRAWN:
        raise DatasetError(f"--labels-drawn is {drawn!r}, allowed are {', '.join(DRAWN)}")
    numbers: dict[int, int | str] = {}
    colors: dict[int, int | str] = {}
    for text in label_map:
        for key, target in _pairs(text):
            table = colors if key.startswith("#") else numbers
            code = _key(key, text)
            if table.get(code, target) != target:
                raise DatasetError(f"--label-map {text}: {key} is there twice")
            table[code] = target
    return LabelOptions(_void(list(void)), numbers, colors, drawn, trusted)


def _void(words: list[str]) -> frozenset[int] | None:
    parts = [part.strip() for text in words for part in text.split(",")]
    if not words:
        return None
    if parts == ["none"]:
        return frozenset()
    for part in parts:
        if not _NUMBER.fullmatch(part):
            raise DatasetError(f"--void is {part[:40]!r}, expected a number or none")
    return frozenset(int(part) for part in parts)


def _pairs(text: str) -> list[tuple[str, int | str]]:
    if "=" in text and not Path(text).is_file():
        return [_pair(part, f"--label-map {part}") for part in text.split(",")]
    path = Path(text)
    try:
        if path.suffix.lower() == ".json":
            return list(read_json(path, _MAP).items())
        lines = read_lines(path, _FILE_BYTES)
    except (OSError, ValueError) as error:
        raise DatasetError(f"--label-map {path}: {reason(error)}") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("# "):
            pairs.append(_pair(line, f"--label-map {path}, line {number}"))
    return pairs


def _pair(text: str, where: str) -> tuple[str, int | str]:
    match = re.fullmatch(r"\s*([^\s=,:]+)\s*[=,:\s]\s*(\S(?:.*\S)?)\s*", text)
    if match is None:
        raise DatasetError(f"{where}: expected LABEL=CLASS, such as 147=1 or #ff0000=road")
    key, target = match.groups()
    return key, int(target) if _NUMBER.fullmatch(target) else target


def _key(key: str, text: str) -> int:
    if _COLOR.fullmatch(key):
        return int(key[1:], 16)
    if _NUMBER.fullmatch(key) and abs(int(key)) <= _LARGEST:
        return int(key)
    raise DatasetError(f"--label-map {text}: {key[:40]!r} is no number and no colour #rrggbb")


def target_index(target: int | str, names: tuple[str, ...], void: int) -> int:
    """Parses the right side of a label map.

    Raises:
        DatasetError: no such class.
    """
    if isinstance(target, str):
        if target in names:
            return names.index(target)
        if target.lower() in _VOID_NAMES:
            return void
        raise DatasetError(f"--label-map: no class is called {target!r}")
    if not 0 <= target < void and target != void:
        raise DatasetError(f"--label-map: class {target}, allowed are 0 to {void - 1} and void")
    return target
