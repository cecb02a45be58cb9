"""What values from outside must look like: a schema, and one line about the first that does not.

    ABOUT = Record({"classes": Array(Text(), shortest=1)}, {"ignore_label": Integer(0, 255)})
    ABOUT.check({"classes": ["road", 5]})   # Unfit: classes[1] is 5, expected text

A schema checks types as JSON has them: true is no number, "3" neither, and numbers are finite.
"""

from __future__ import annotations

import dataclasses
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

_DEEPEST = 64  # levels of lists and objects where any plain value is allowed


class Unfit(ValueError):
    """A value that does not fit a schema; the message names the field, the value and the rule."""

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Schema:
    """One rule. `expected` is how messages call the values that fit."""

    expected: str

    def check(self, value: Any, field: str = "") -> Any:
        """The value, with lists and objects copied.

        Args:
            field: where the value stands, as messages call it; "" is the whole content.

        Raises:
            Unfit: it does not fit.
        """
        raise NotImplementedError

    def refuse(self, value: Any, field: str) -> Unfit:
        where = field or "the content"
        return Unfit(f"{where} is {shown(value)}, expected {self.expected}", field)


def shown(value: Any) -> str:
    """A value in at most some 60 characters, whatever it is."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"an object of {len(value)} entries"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        text = ascii(value) if any(_is_control(c) for c in value[:60]) else repr(value[:60])
        return text if len(value) <= 60 else f"{text[:60]}..."
    if isinstance(value, int | float):
        return repr(value)
    return f"a {type(value).__name__}"


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs")


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"


@dataclasses.dataclass(frozen=True)
class Integer(Schema):
    """A whole number from low to high, both included."""

    low: int | None = None
    high: int | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]
        return "a whole number" + _range(self.low, self.high)

    def check(self, value: Any, field: str = "") -> int:
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
        ):
            raise self.refuse(value, field)
        return value


@dataclasses.dataclass(frozen=True)
class Number(Schema):
    """A finite number from low to high, both included, and above `above`."""

    low: float | None = None
    high: float | None = None
    above: float | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]
        above = "" if self.above is None else f" above {self.above}"
        return "a number" + above + _range(self.low, self.high)

    def check(self, value: Any, field: str = "") -> float:
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if fits and isinstance(value, int):
            fits = value.bit_length() <= 1023  # beyond the largest float
        if (
            not fits
            or not math.isfinite(value)
            or (self.low is not None and value < self.low)
            or (self.high is not None and value > self.high)
            or (self.above is not None and not value > self.above)
        ):
            raise self.refuse(value, field)
        return value


@dataclasses.dataclass(frozen=True)
class Text(Schema):
    """A string, of one line: without control characters and lone surrogates."""

    allowed: Sequence[str] | None = None
    longest: int = 1000

    @property
    def expected(self) -> str:  # type: ignore[override]
        if self.allowed is not None:
            return f"one of {', '.join(self.allowed)}"
        return f"text of one line, at most {self.longest} characters"

    def check(self, value: Any, field: str = "") -> str:
        if (
            not isinstance(value, str)
            or len(value) > self.longest
            or any(_is_control(c) for c in value)
            or (self.allowed is not None and value not in self.allowed)
        ):
            raise self.refuse(value, field)
        return value


@dataclasses.dataclass(frozen=True)
class Boolean(Schema):
    """True or false."""

    expected = "true or false"

    def check(self, value: Any, field: str = "") -> bool:
        if not isinstance(value, bool):
            raise self.refuse(value, field)
        return value


@dataclasses.dataclass(frozen=True)
class Null(Schema):
    """Nothing."""

    expected = "null"

    def check(self, value: Any, field: str = "") -> None:
        if value is not None:
            raise self.refuse(value, field)


@dataclasses.dataclass(frozen=True)
class Array(Schema):
    """A list whose items all fit one schema."""

    item: Schema
    shortest: int = 0
    longest: int | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]
        if self.shortest == self.longest:
            return f"a list of {self.shortest}, each {self.item.expected}"
        count = ""
        if self.shortest:
            count = f" of at least {self.shortest}"
        if self.longest is not None:
            count = f" of {self.shortest} to {self.longest}"
        return f"a list{count}, each {self.item.expected}"

    def check(self, value: Any, field: str = "") -> list[Any]:
        if (
            not isinstance(value, list | tuple)
            or len(value) < self.shortest
            or (self.longest is not None and len(value) > self.longest)
        ):
            raise self.refuse(value, field)
        return [self.item.check(item, f"{field}[{index}]") for index, item in enumerate(value)]


def _below(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


@dataclasses.dataclass(frozen=True)
class Table(Schema):
    """An object with any names, whose values all fit one schema."""

    item: Schema
    longest: int | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]
        count = "" if self.longest is None else f" of at most {self.longest} entries"
        each = "" if isinstance(self.item, Plain) else f", each {self.item.expected}"
        return f"an object{count}{each}"

    def check(self, value: Any, field: str = "") -> dict[str, Any]:
        if not isinstance(value, Mapping) or (
            self.longest is not None and len(value) > self.longest
        ):
            raise self.refuse(value, field)
        return {
            _NAME.check(name, f"a name in {field or 'the content'}"): self.item.check(
                entry, _below(field, name)
            )
            for name, entry in value.items()
        }


@dataclasses.dataclass(frozen=True)
class Record(Schema):
    """An object with known fields.

    Attributes:
        required, optional: schema of each field.
        others: schema of all other fields; None refuses them.
    """

    required: Mapping[str, Schema] = dataclasses.field(default_factory=dict)
    optional: Mapping[str, Schema] = dataclasses.field(default_factory=dict)
    others: Schema | None = None

    @property
    def expected(self) -> str:  # type: ignore[override]
        names = f" with {', '.join(self.required)}" if self.required else ""
        return f"an object{names}"

    def check(self, value: Any, field: str = "") -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self.refuse(value, field)
        result = {}
        for name, entry in value.items():
            _NAME.check(name, f"a name in {field or 'the content'}")
            schema = self.required.get(name) or self.optional.get(name) or self.others
            if schema is None:
                known = ", ".join((*self.required, *self.optional))
                where = _below(field, name)
                raise Unfit(f"{where} is not known, allowed are {known}", where)
            result[name] = schema.check(entry, _below(field, name))
        if missing := [name for name in self.required if name not in value]:
            where, schema = _below(field, missing[0]), self.required[missing[0]]
            raise Unfit(f"{where} is missing, expected {schema.expected}", where)
        return result


@dataclasses.dataclass(frozen=True)
class Either(Schema):
    """A value that fits one of several schemas."""

    schemas: tuple[Schema, ...]

    @property
    def expected(self) -> str:  # type: ignore[override]
        return " or ".join(schema.expected for schema in self.schemas)

    def check(self, value: Any, field: str = "") -> Any:
        deeper = None
        for schema in self.schemas:
            try:
                return schema.check(value, field)
            except Unfit as error:
                # What is wrong inside a list or an object says more than what it is instead.
                if error.field != field:
                    deeper = error
        raise deeper or self.refuse(value, field)


def either(*schemas: Schema) -> Either:
    """A value that fits one of these."""
    return Either(schemas)


def nullable(schema: Schema) -> Either:
    """A value that fits, or null."""
    return Either((Null(), schema))


@dataclasses.dataclass(frozen=True)
class Instance(Schema):
    """An object of a Python class, in files that hold more than JSON."""

    kind: type | tuple[type, ...]
    expected: str

    def check(self, value: Any, field: str = "") -> Any:
        if not isinstance(value, self.kind):
            raise self.refuse(value, field)
        return value


@dataclasses.dataclass(frozen=True)
class Plain(Schema):
    """Any value of JSON, its numbers finite, to a moderate depth."""

    expected = f"a plain value, nested at most {_DEEPEST} deep"

    def check(self, value: Any, field: str = "", _depth: int = 0) -> Any:
        if _depth > _DEEPEST:
            raise Unfit(f"{field[:60]}... is nested more than {_DEEPEST} deep", field)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return _ANY_TEXT.check(value, field)
        if isinstance(value, int | float):
            return _ANY_NUMBER.check(value, field)
        if isinstance(value, list | tuple):
            return [self.check(v, f"{field}[{i}]", _depth + 1) for i, v in enumerate(value)]
        if isinstance(value, Mapping):
            return {
                _NAME.check(name, f"a name in {field or 'the content'}"): self.check(
                    entry, _below(field, name), _depth + 1
                )
                for name, entry in value.items()
            }
        raise self.refuse(value, field)


@dataclasses.dataclass(frozen=True)
class Anything(Schema):
    """Any object at all, not looked into."""

    expected = "anything"

    def check(self, value: Any, field: str = "") -> Any:
        return value


_NAME = Text()
_ANY_TEXT, _ANY_NUMBER = Text(longest=1 << 24), Number()
PLAIN, ANYTHING = Plain(), Anything()
