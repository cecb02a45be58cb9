"""Reading JSON that others wrote: strictly, within limits, and checked against a schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ._messages import one_line
from ._schema import PLAIN, Schema, Unfit, shown
from .limits import limits

_MOST_DIGITS = 400  # more than the largest float has


def read_json(path: Path, schema: Schema = PLAIN) -> Any:
    """The content of a JSON file, as the schema has it.

    UTF-8 with or without a byte order mark, and UTF-16 and UTF-32 with one, as editors write them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, too large, or does not fit; in one line that names the file and
            the field.
    """
    largest = limits().json_bytes
    with path.open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(
            f"{path}: has more than {largest} bytes; the limit json_bytes can be raised "
            "(fastseg.use_limits, or fastseg --limit)"
        )
    return parse_json(str(path), data, schema)


def parse_json(origin: str, data: bytes, schema: Schema = PLAIN) -> Any:
    """The content of JSON text, as the schema has it.

    Args:
        origin: what messages call the text.

    Raises:
        ValueError: as `read_json`.
    """
    try:
        text = data.decode(json.detect_encoding(data))
        content = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except UnicodeDecodeError as error:
        raise ValueError(f"{origin}: is no text ({error.reason} at byte {error.start})") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{origin}: truncated or damaged JSON ({error.msg}, {where})") from None
    except RecursionError:
        raise ValueError(f"{origin}: its lists and objects are nested too deep") from None
    except Unfit as error:
        raise ValueError(f"{origin}: {one_line(error)}") from None
    return checked(origin, content, schema)


def checked(origin: str, content: Any, schema: Schema) -> Any:
    """Content from any file, as the schema has it.

    Args:
        origin: what messages call the file.

    Raises:
        ValueError: it does not fit; in one line that names the origin and the field.
    """
    try:
        return schema.check(content)
    except Unfit as error:
        raise ValueError(f"{origin}: {one_line(error)}") from None
    except RecursionError:
        raise ValueError(f"{origin}: its lists and objects are nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise Unfit(f"{shown(twice)} is there twice")
    return content


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise Unfit(f"a number has {len(digits)} digits, expected at most {_MOST_DIGITS}")
    return int(digits)
