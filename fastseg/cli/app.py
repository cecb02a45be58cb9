"""The commands of `fastseg`, one line each."""

from __future__ import annotations

from typing import Annotated

import typer

from .._version import __version__
from . import bench
from .crf import crf
from .eval import eval_
from .info import info
from .models import models
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


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None: ...


app.command()(segment)
app.command()(crf)
app.command()(train)
app.command("eval")(eval_)
app.command()(models)
app.command()(info)
app.add_typer(bench.app, name="bench")
