"""The record of what compiled kernels take: comparing it with a measurement, and writing it."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

Resources = dict[str, int | str]
Table = dict[str, dict[str, Resources]]  # kernel -> architecture -> resources


def differences(recorded: Table, measured: Table) -> list[str]:
    """One line per kernel and architecture that is not as recorded."""
    lines = []
    for kernel in sorted({*recorded, *measured}):
        old, new = recorded.get(kernel, {}), measured.get(kernel, {})
        for architecture in [*new, *(name for name in old if name not in new)]:
            if old.get(architecture) != new.get(architecture):
                was, now = old.get(architecture), new.get(architecture)
                lines.append(f"{kernel} {architecture}: recorded {was}, now {now}")
    return lines


def wants_update(description: str | None) -> bool:
    """Reads the command line of a tool whose only option is --update."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--update", action="store_true", help="write the table")
    update: bool = parser.parse_args().update
    return update


def compare_or_write(path: Path, made_with: dict[str, str], measured: Table, update: bool) -> int:
    """Writes the measurement to `path`, or prints what is not as recorded there; the exit code."""
    if update:
        # One line per kernel and architecture.
        text = json.dumps({**made_with, "kernels": measured}, indent=1)
        text = re.sub(
            r"\{\s*(\"registers\"[^}]*?)\s*\}", lambda m: "{" + " ".join(m[1].split()) + "}", text
        )
        path.write_text(text + "\n")
        return 0
    lines = differences(json.loads(path.read_text())["kernels"], measured)
    print("\n".join(lines) or "as recorded")
    return 1 if lines else 0
