"""`fastseg models`: what can be trained, and what can be loaded."""

from __future__ import annotations

import json
from typing import Annotated, Any

import torch
import typer
from torch.overrides import TorchFunctionMode

from ..classes import numbered_classes
from ..models.architectures import ARCHITECTURES, takes_encoder
from ..models.checkpoints import FAMILIES
from ..models.default import NAME as DEFAULT_NAME
from ..models.description import Description
from .console import Table, say

_COLUMNS = 4  # of numbers in a table, beside the names: as many as fit into 80 columns


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON to stdout.")] = False,
) -> None:
    """List the models, their encoders, and the checkpoints that load."""
    from ..models.encoders import ENCODERS

    over = [name for name in ARCHITECTURES if takes_encoder(name)]
    alone = [name for name in ARCHITECTURES if name not in over]
    pairs = [(architecture, encoder) for encoder in ENCODERS for architecture in over]
    pairs += [(architecture, "") for architecture in alone]
    rows = [row for pair in pairs if (row := _row(*pair)) is not None]
    families = list(dict.fromkeys(family.name for family in FAMILIES))
    if as_json:
        print(
            json.dumps({"models": rows, "checkpoints": families, "default": DEFAULT_NAME}, indent=1)
        )
        return
    title = "fastseg train --model MODEL --encoder ENCODER: millions of parameters"
    for first in range(0, len(over), _COLUMNS):
        shown = over[first : first + _COLUMNS]
        table = Table(title, "<encoder", *(f">{name}" for name in shown))
        for encoder in ENCODERS:
            own = [row for row in rows if row["encoder"] == encoder]
            sizes = {row["model"]: _millions(row["parameters"]) for row in own}
            if any(name in sizes for name in shown):
                table.add(encoder, *(sizes.get(name, "") for name in shown))
        table.print()
    sizes = {r["model"]: _millions(r["parameters"]) for r in rows if not r["encoder"]}
    say(
        "With layers of their own, without --encoder: "
        + ", ".join(f"{name} ({size})" for name, size in sizes.items())
    )
    say(
        "Parameters with 19 classes. Other encoders: tu-NAME, for any network of timm. "
        f"{DEFAULT_NAME} ships with the package: segment and eval use "
        "it where no --weights are given. --weights takes what fastseg train writes, folders of "
        f"save_pretrained, and checkpoints of {', '.join(families)}."
    )


def _row(architecture: str, encoder: str) -> dict[str, Any] | None:
    """What is printed of a model; None if the architecture does not take the encoder."""
    try:
        with torch.device("meta"), _NoValues():
            model = Description(architecture, encoder, numbered_classes(19), 512).build()
    except ValueError:
        return None
    count = sum(parameter.numel() for parameter in model.parameters())
    return {"model": architecture, "encoder": encoder or None, "parameters": count}


class _NoValues(TorchFunctionMode):
    """Skips the initialisation of tensors, which on meta tensors is slow and has no effect."""

    _FILLING = frozenset(
        (
            "constant_",
            "fill_",
            "kaiming_normal_",
            "kaiming_uniform_",
            "normal_",
            "trunc_normal_",
            "uniform_",
            "zero_",
        )
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if args and getattr(func, "__name__", "") in self._FILLING:
            return args[0]
        return func(*args, **(kwargs or {}))


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}"
