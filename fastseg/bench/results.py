"""The file of results: one JSON object with machine, ceilings, settings and one row per case."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from .harness import Settings
from .machine import Ceilings

FORMAT = "fastseg-bench"
VERSION = 1


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
        ValueError: the file is neither.
    """
    try:
        data = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from None
    if isinstance(data, dict) and data.get("format") == FORMAT:
        if data.get("version") != VERSION:
            raise ValueError(f"{path} has version {data.get('version')}, this reads {VERSION}")
        return data
    try:
        about = data["machine_info"][FORMAT]
        infos = [entry["extra_info"] for entry in data["benchmarks"]]
        # Models, heads and CRFs, benchmarked in the same run, have rows of another kind.
        rows = [info[FORMAT] for info in infos if FORMAT in info]
        if not rows:
            raise KeyError(FORMAT)
    except (KeyError, TypeError):
        raise ValueError(
            f"{path} holds no results: expected a file written by 'fastseg bench run' or by "
            "'pytest benchmarks/ --benchmark-json'"
        ) from None
    return {**about, "results": rows, "failures": []}
