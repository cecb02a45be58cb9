"""All terminal output: results to stdout, progress and errors to stderr.

Class names, paths and messages may hold whatever files hold: brackets, `:names:` of emoji, control
characters, bytes that are no text. Here all of it is printed as it is, in one line, and never read
as markup. The other modules of the command line therefore do not import rich (a test looks).
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from .._messages import one_line, reason

__all__ = [
    "Cell",
    "Pairs",
    "Table",
    "fail",
    "note",
    "one_line",
    "percent_of",
    "printed",
    "progress",
    "progress_bar",
    "reason",
    "report",
    "say",
    "swatches",
    "warn",
]

_PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
_out = Console(**_PLAIN)
_err = Console(stderr=True, **_PLAIN)

# A cell: text, or parts of text with their styles.
Cell = str | tuple[tuple[str, str], ...]


def say(message: object) -> None:
    """Prints one line of the result to stdout."""
    _out.print(_text(message), soft_wrap=True)


def note(message: object) -> None:
    """Prints one line to stderr."""
    _err.print(_text(message), soft_wrap=True)


def report(message: object) -> None:
    """Prints one line about an error to stderr."""
    line = Text.assemble(("error: ", "bold red"), _text(message))
    _err.print(line, soft_wrap=True)


def warn(message: object) -> None:
    """Prints one line about a deprecated option or name."""
    line = Text.assemble(("warning: ", "bold yellow"), _text(message))
    _err.print(line, soft_wrap=True)


def fail(message: object) -> NoReturn:
    """Prints one line about an error and ends the command with exit code 1."""
    report(message)
    raise typer.Exit(1)


def printed(make: Callable[[int], Any]) -> None:
    """Prints what rich renders, made for the width of the terminal; 150 columns without one."""
    console = _out if _out.is_terminal else Console(width=150, **_PLAIN)
    console.print(make(console.width))


class Table:
    """A table of plain text on stdout.

    Args:
        title: above it.
        columns: headings; one that begins with ">" is of a column aligned right, "^" centred, and
            "<" never broken, however narrow the terminal. What is too wide elsewhere is continued
            in the next line.
    """

    def __init__(self, title: str, *columns: str) -> None:
        self._table = RichTable(title=_text(title), title_style="bold")
        for column in columns:
            justify: Any = {">": "right", "^": "center"}.get(column[:1], "left")
            self._table.add_column(
                _text(column.lstrip("<>^")),
                justify=justify,
                overflow="fold",
                no_wrap=column.startswith("<"),
            )

    def add(self, *cells: Cell) -> None:
        """Adds a row."""
        self._table.add_row(*(_text(cell) for cell in cells))

    def print(self) -> None:
        """Prints the table; nothing may be added afterwards."""
        _out.print(self._table)


class Pairs:
    """Lines of a name, in bold, and its value, on stdout."""

    def __init__(self) -> None:
        self._grid = RichTable.grid(padding=(0, 2))
        self._grid.add_column(style="bold")
        self._grid.add_column()

    def add(self, name: str, value: str) -> None:
        """Adds a line."""
        self._grid.add_row(_text(name), _text(value))

    def print(self) -> None:
        """Prints the lines."""
        _out.print(self._grid)


def percent_of(share: float) -> str:
    """Formats a share from 0 to 1 as a percentage; "" for NaN."""
    return "-" if share != share else f"{100 * share:.2f} %"


def swatches() -> tuple[str, str]:
    """A full and an empty square to show a colour with, where the terminal has them."""
    return ("■ ", "□ ") if _out.encoding.startswith("utf") else ("", "")


def progress(*fields: str, shown: bool = True, remaining: bool = True) -> Progress:
    """A progress bar on stderr if that is a terminal: its task's description, bar and time.

    Args:
        fields: formats of more columns, "loss {task.fields[loss]}".
        shown: whether this process shows it.
        remaining: whether the time left is shown, else the time so far.
    """
    columns: list[ProgressColumn] = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        *(TextColumn(field, markup=False) for field in fields),
        TimeRemainingColumn() if remaining else TimeElapsedColumn(),
    ]
    shown = shown and _err.is_terminal
    return Progress(*columns, console=_err, transient=True, disable=not shown)


@contextlib.contextmanager
def progress_bar(
    description: str, total: int | None = None, shown: bool = True
) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for one task; gives the function that sets how much is done, and the total."""
    with progress(shown=shown) as bar:
        task = bar.add_task(one_line(description), total=total)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_what_fits() -> None:
    """Makes stdout and stderr escape characters that their encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _text(content: object) -> Text:
    if isinstance(content, Text):
        return content
    if isinstance(content, tuple):
        return Text.assemble(*((_printable(part), style) for part, style in content))
    return Text(_printable(content))


def _printable(content: object) -> str:
    """One line that keeps the spaces at its ends."""
    text = str(content)
    line = one_line(text)
    return f"{text[: len(text) - len(text.lstrip(' '))]}{line}{' ' * text.endswith(' ')}"
