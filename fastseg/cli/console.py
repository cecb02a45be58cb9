"""Where the commands write to: results to stdout, progress and errors to stderr."""

from __future__ import annotations

from typing import NoReturn

import typer
from rich.console import Console
from rich.text import Text

out = Console()
err = Console(stderr=True)


def one_line(message: object) -> str:
    """A message, of an exception perhaps, without its line breaks and control characters."""
    words = " ".join(str(message).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in words)


def reason(error: BaseException) -> str:
    """What an exception says, in one line; for system errors without number and path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return one_line(error) or type(error).__name__


def report(message: object) -> None:
    """Prints one line about what went wrong."""
    line = Text.assemble(("error: ", "bold red"), one_line(message))
    err.print(line, soft_wrap=True)


def fail(message: object) -> NoReturn:
    """Prints one line about what went wrong and ends the command with exit code 1."""
    report(message)
    raise typer.Exit(1)
