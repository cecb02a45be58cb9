"""Where the commands write to: results to stdout, progress and errors to stderr."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

from .._messages import one_line, reason

__all__ = ["err", "fail", "one_line", "out", "reason", "report", "warn"]

out = Console()
err = Console(stderr=True)


def report(message: object) -> None:
    """Prints one line about what went wrong."""
    line = Text.assemble(("error: ", "bold red"), one_line(message))
    err.print(line, soft_wrap=True)


def warn(message: object) -> None:
    """Prints one line about what still works, but not for long."""
    line = Text.assemble(("warning: ", "bold yellow"), one_line(message))
    err.print(line, soft_wrap=True)


def fail(message: object) -> NoReturn:
    """Prints one line about what went wrong and ends the command with exit code 1."""
    report(message)
    raise typer.Exit(1)
