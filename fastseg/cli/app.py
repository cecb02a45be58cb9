"""The commands of `fastseg`, one line each."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from .._version import __version__
from ..limits import Limits, use_limits
from . import bench
from .crf import crf
from .eval import eval_
from .info import info
from .models import models
from .resuming import ResumableCommand
from .segment import segment
from .train import train

app = typer.Typer(
    help="Fast, small in memory and reproducible semantic segmentation.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit()


def _raise_limits(context: typer.Context, given: list[str] | None) -> list[str] | None:
    changes = {}
    for limit in given or ():
        name, _, value = limit.partition("=")
        try:
            changes[name] = int(value)
        except ValueError:
            raise typer.BadParameter(f"{limit!r} is no NAME=NUMBER") from None
    if changes and not context.resilient_parsing:
        try:
            context.with_resource(use_limits(**changes))
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return given


@app.callback()
def _options(
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            callback=_raise_limits,
            help="Changes what a file from outside may ask for: "
            f"{', '.join(field.name for field in dataclasses.fields(Limits))}. "
            "May be given several times.",
        ),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


app.command()(segment)
app.command()(crf)
app.command(cls=ResumableCommand)(train)
app.command("eval")(eval_)
app.command()(models)
app.command()(info)
app.add_typer(bench.app, name="bench")
