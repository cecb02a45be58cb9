"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..data import LAYOUTS
from ..limits import use_limits


def _allow_pixels(context: typer.Context, pixels: int | None) -> int | None:
    if pixels is not None and not context.resilient_parsing:
        context.with_resource(use_limits(pixels=pixels))
    return pixels


Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        help="best.pt of fastseg train, a folder of save_pretrained, or any known checkpoint. "
        "Default: the street-scene model that ships with the package.",
    ),
]
WorkingSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Pixels of the longer side to which an image is resized for the network. "
        "Default: the model's own.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N; auto takes a GPU if there is one.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: PyTorch's choice.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Run the network in bfloat16 (autocast).")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON to stdout.")]
Layout = Annotated[
    str | None,
    typer.Option(help=f"How the data set lies on disk: {', '.join(LAYOUTS)}. Default: found out."),
]
Void = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N|none",
        help="Labels that count nowhere, with commas or given several times; 255 is one of them "
        "unless it is 'none'. Default: those of classes.json or of the layout.",
    ),
]
LabelMap = Annotated[
    list[str] | None,
    typer.Option(
        "--label-map",
        metavar="MAP",
        help="What labels mean: 147=1,220=2, or #ff0000=1 for a colour, or a file of such lines; "
        "right of = a class or void.",
    ),
]
LabelsDrawn = Annotated[
    str,
    typer.Option(
        help="Where photographs have an EXIF orientation: labels belong to the 'stored' pixels or "
        "to the 'upright' picture. Default: as their sizes say."
    ),
]
TrustLabels = Annotated[
    bool,
    typer.Option("--trust-labels", help="Use labels that seem to make no sense all the same."),
]
Ignore = Annotated[list[int] | None, typer.Option(hidden=True, help="Now --void.")]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=_allow_pixels,
        help="Most pixels that an image file may have. Default: 89478485.",
    ),
]
