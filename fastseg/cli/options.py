"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        help="Longer side, in pixels, at which the network sees an image. "
        "Default: what suits the model.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda or cuda:N; auto takes the GPU if there is one.")
]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads. Default: PyTorch's choice.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Autocast to bfloat16.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON to stdout.")]
Ignore = Annotated[
    list[int] | None,
    typer.Option(help="Label value that counts nowhere, besides 255. Default: the file's."),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(
        min=1,
        callback=_allow_pixels,
        help="Most pixels that an image file may have. Default: 89478485.",
    ),
]
