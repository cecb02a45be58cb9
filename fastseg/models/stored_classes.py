"""Class sets as files hold them: config.json and checkpoints."""

from __future__ import annotations

import dataclasses
from typing import Any

from .._schema import Array, Integer, Record, Schema, Text, Unfit, nullable
from ..classes import ClassSet
from ..limits import limits

_COLOR = Array(Integer(0, 255), 3, 3)


class StoredClasses(Schema):
    """The fields of a ClassSet; `check` returns the ClassSet."""

    expected = "an object with names, colors, overlay_colors and background"

    def check(self, value: Any, field: str = "") -> ClassSet:
        if isinstance(value, ClassSet):
            return value
        most = limits().classes
        stored = Record(
            {
                "names": Array(Text(), 1, most),
                "colors": Array(_COLOR, 1, most),
                "overlay_colors": Array(_COLOR, 1, most),
            },
            {"background": nullable(Integer(0, most))},
        ).check(value, field)
        count = len(stored["names"])
        for name in ("colors", "overlay_colors"):
            if len(stored[name]) != count:
                raise Unfit(
                    f"{field}.{name} has {len(stored[name])} colours, expected one for each of "
                    f"{count} names",
                    f"{field}.{name}",
                )
        background = stored.get("background")
        if background is not None and background >= count:
            raise Unfit(
                f"{field}.background is {background}, expected a class from 0 to {count - 1}",
                f"{field}.background",
            )

        def colors(name: str) -> tuple[tuple[int, int, int], ...]:
            return tuple((r, g, b) for r, g, b in stored[name])

        return ClassSet(
            tuple(stored["names"]), colors("colors"), colors("overlay_colors"), background
        )


def stored(classes: ClassSet) -> dict[str, Any]:
    """What `StoredClasses` reads."""
    return dataclasses.asdict(classes)
