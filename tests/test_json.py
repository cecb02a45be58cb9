"""JSON from outside: strictly read, checked against a schema, one line about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fastseg
from fastseg._json import checked, parse_json, read_json
from fastseg._schema import (
    PLAIN,
    Array,
    Boolean,
    Either,
    Integer,
    Null,
    Number,
    Record,
    Schema,
    Table,
    Text,
    either,
    nullable,
)  # fmt: skip
from fastseg.limits import limits, use_limits

COLOR = Array(Integer(0, 255), 3, 3)
ABOUT = Record(
    {"classes": Array(Text(), shortest=1)},
    {"ignore": either(Integer(0), Array(Integer(0))), "palette": nullable(Array(COLOR))},
    others=PLAIN,
)


def said(content: Any, schema: Schema = ABOUT) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(ValueError) as caught:
        parse_json("about.json", data, schema)
    message = str(caught.value)
    assert message.startswith("about.json: ")
    assert len(message.splitlines()) == 1 and len(message) < 400
    assert caught.value.__cause__ is None
    return message.removeprefix("about.json: ")


def test_what_fits_is_returned() -> None:
    content = {"classes": ["road", "sky é"], "ignore": 3, "palette": [[0, 1, 255]], "x": {"y": 1.5}}
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        data = json.dumps(content, ensure_ascii=False).encode(encoding)
        assert parse_json("about.json", data, ABOUT) == content
    assert parse_json("", b'{"classes": ["a"], "palette": null}', ABOUT)["palette"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "classes is missing, expected a list of at least 1, each text of one line"),
        ([], "the content is a list of 0, expected an object with classes"),
        ({"classes": None}, "classes is null, expected a list"),
        ({"classes": []}, "classes is a list of 0, expected a list of at least 1"),
        ({"classes": ["a", 5]}, "classes[1] is 5, expected text"),
        ({"classes": ["a\nb"]}, r"classes[0] is 'a\nb', expected text of one line"),
        ({"classes": ["\x1b[31m"]}, r"classes[0] is '\x1b[31m', expected"),
        ({"classes": ["\ud800"]}, r"classes[0] is '\ud800', expected"),
        ({"classes": "ab"}, "classes is 'ab', expected a list"),
        ({"classes": ["a"], "ignore": True}, "ignore is true, expected a whole number"),
        ({"classes": ["a"], "ignore": "3"}, "ignore is '3', expected"),
        ({"classes": ["a"], "ignore": 3.0}, "ignore is 3.0, expected a whole number"),
        ({"classes": ["a"], "ignore": [1, -1]}, "ignore[1] is -1, expected a whole number"),
        ({"classes": ["a"], "palette": [[0, 0]]}, "palette[0] is a list of 2, expected a list"),
        ({"classes": ["a"], "palette": [[0, 0, 256]]}, "palette[0][2] is 256, expected"),
        ({"classes": ["a"], "palette": 1}, "palette is 1, expected null or a list"),
        ({"classes": ["a"], "x": {"y": [0, float("inf")]}}, "x.y[1] is inf, expected a number"),
        ({"classes": ["a"], "x": float("nan")}, "x is nan, expected a number"),
        ({"classes": ["a"], "x": 10**400}, "a number has 401 digits, expected at most 400"),
        ({"classes": ["a"], "x": 10**350}, "x is a number of 1163 bits, expected a number"),
        (b'{"classes": ["a"], "x": 1e999}', "x is inf, expected a number"),
        (b'{"classes": ["a"], "classes": ["b"]}', "'classes' is there twice"),
        (b"", "truncated or damaged JSON"),
        (b'{"classes": ["a"', "truncated or damaged JSON (Expecting ',' delimiter, line 1,"),
        (b"\xff\xfe\x00\xd8", "is no text"),
        (b'{"classes": ["\xc3"]}', "is no text (invalid continuation byte at byte 14)"),
        (b"[" * 100_000, "its lists and objects are nested too deep"),
        (b'{"a":' * 100_000, "its lists and objects are nested too deep"),
        (b'{"classes": ["a"], "x": ' + b"[" * 90 + b"]" * 90 + b"}", "... is nested more than 64"),
        (b"9" * 5000, "a number has 5000 digits"),
    ],
)  # fmt: skip
def test_one_line_names_the_field(content: Any, message: str) -> None:
    assert message in said(content)


def test_unknown_fields_are_refused_where_none_are_allowed() -> None:
    schema = Record({"a": Integer()}, {"b": Boolean()})
    assert said({"a": 1, "c": 2}, schema) == "c is not known, allowed are a, b"
    assert "b is 1, expected true or false" in said({"a": 1, "b": 1}, schema)


def test_kinds() -> None:
    assert checked("", 0.5, Number(0, 1)) == 0.5
    for value in (-0.1, 1.1, float("nan"), float("inf"), True, "1", None, 10**400, [1]):
        with pytest.raises(ValueError, match=r"x: the content is .*expected a number from 0 to 1"):
            checked("x", value, Number(0, 1))
    with pytest.raises(ValueError, match="is 0, expected a number above 0"):
        checked("x", 0, Number(above=0))
    with pytest.raises(ValueError, match="expected one of adam, sgd"):
        checked("x", "lbfgs", Text(("adam", "sgd")))
    with pytest.raises(ValueError, match=r"x: a\.b is 'c', expected a whole number"):
        checked("x", {"a": {"b": "c"}}, Table(Table(Integer())))
    with pytest.raises(ValueError, match=r"x: a name in a is 5, expected text"):
        checked("x", {"a": {5: 1}}, Table(Table(Integer())))
    with pytest.raises(ValueError, match="is a set, expected a plain value"):
        checked("x", {1}, PLAIN)
    assert checked("", [None, 3], Array(Either((Null(), Integer())))) == [None, 3]


def test_a_list_that_holds_itself_ends() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested more than 64 deep"):
        checked("x", endless, PLAIN)


def test_files_are_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" + "1, " * 500 + "1]")
    assert read_json(path) == 501 * [1]
    with use_limits(json_bytes=1000):
        with pytest.raises(ValueError, match=r"a\.json: has more than 1000 bytes.*json_bytes"):
            read_json(path)
    assert len(read_json(path)) == 501
    with pytest.raises(OSError):
        read_json(tmp_path / "none.json")


def test_limits_hold_inside_the_block() -> None:
    before = limits()
    with use_limits(classes=7) as inside:
        assert (limits().classes, limits().json_bytes) == (7, before.json_bytes)
        assert inside is limits()
    assert limits() is before
    with pytest.raises(ValueError, match="'pixel', allowed are classes"), use_limits(pixel=1):
        pass
    for wrong in (-1, True, 1.5):
        with pytest.raises(ValueError, match="expected a whole number"), use_limits(classes=wrong):  # type: ignore[arg-type]
            pass
    assert fastseg.use_limits is use_limits
