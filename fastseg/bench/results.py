"""The file of results: one JSON object with machine, ceilings, settings and one row per case."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .._json import checked, read_json
from .._schema import (
    PLAIN,
    Array,
    Instance,
    Integer,
    Number,
    Record,
    Table,
    Text,
    Unfit,
    nullable,
    shown,
)
from .candidates import OURS
from .harness import Settings
from .machine import Ceilings

FORMAT = "fastseg-bench"
VERSION = 1
DTYPES, LAYOUTS = ("float32", "bfloat16", "float16", "float64"), ("NCHW", "channels_last")


def bundle(
    machine: dict[str, Any],
    ceilings: Ceilings,
    settings: Settings,
    rows: list[dict[str, Any]],
    failures: list[dict[str, str]] | None = None,
) -> dict[str, Any]:
    """Everything about one run, ready for json.dumps. `failures`: case and reason, not timed."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "machine": machine,
        "ceilings": dataclasses.asdict(ceilings),
        "settings": dataclasses.asdict(settings),
        "results": rows,
        "failures": failures or [],
    }


def load(path: Path) -> dict[str, Any]:
    """Reads what `bundle` made, or what `pytest benchmarks/ --benchmark-json` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is neither, or damaged; the message names the field.
    """
    data = read_json(path)
    if isinstance(data, dict) and data.get("format") == FORMAT:
        if data.get("version") != VERSION:
            version = shown(data.get("version"))
            raise ValueError(f"{path}: version is {version}, expected {VERSION}")
        return checked(str(path), data, _BUNDLE)
    try:
        about = data["machine_info"][FORMAT]
        infos = [entry["extra_info"] for entry in data["benchmarks"]]
        # Models, heads and CRFs of the same run have rows of another kind.
        rows = [info[FORMAT] for info in infos if FORMAT in info]
        if not rows:
            raise KeyError(FORMAT)
        return checked(str(path), {**about, "results": rows, "failures": []}, _BUNDLE)
    except (KeyError, TypeError):
        raise ValueError(
            f"{path}: holds no results, expected a file written by 'fastseg bench run' or by "
            "'pytest benchmarks/ --benchmark-json'"
        ) from None


_MOST_ROWS = 1000
_RATE = Number(low=0, high=1e30)
_MESSAGE = Instance(str, "text")  # of an exception perhaps, of any length
_VARIANT = Record(
    {
        "kind": Text(longest=60),
        "layout": Text(LAYOUTS),
        "median_s": Number(above=0, high=1e9),
        "peak_extra_bytes": nullable(Number()),
    },
    others=PLAIN,
)


class _Variants(Array):
    """Times of one case, fastseg's among them: all others are compared with it."""

    def check(self, value: Any, field: str = "") -> list[Any]:
        variants = super().check(value, field)
        if not any(variant["kind"] == OURS for variant in variants):
            raise Unfit(f"{field} holds no variant of kind {OURS!r}", field)
        return variants


_ROW = Record(
    {
        "op": Text(longest=100),
        "workload": Text(longest=300),
        "dtype": Text(DTYPES),
        "direction": Text(longest=60),
        "bound": Text(("memory", "arithmetic")),
        "fraction_of_ceiling": _RATE,
        "gb_per_s": _RATE,
        "gflop_per_s": _RATE,
        "speedup": Table(_RATE, longest=100),
        "variants": _Variants(_VARIANT, 1, 100),
        "left_out": Table(_MESSAGE, longest=100),
    },
    others=PLAIN,
)
_BUNDLE = Record(
    {
        "machine": Record(
            {
                "device": Text(("cpu", "cuda")),
                "name": Text(longest=200),
                "threads": Integer(1, 1 << 20),
                "torch": Text(longest=100),
                "fastseg": Text(longest=100),
                "native_core": _MESSAGE,
            },
            others=PLAIN,
        ),
        "ceilings": Record({"copy_bytes_per_s": _RATE, "flops_per_s": _RATE}, others=PLAIN),
        "results": Array(_ROW, longest=_MOST_ROWS),
        "failures": Array(Record({"case": _MESSAGE, "reason": _MESSAGE}), longest=_MOST_ROWS),
    },
    others=PLAIN,
)
