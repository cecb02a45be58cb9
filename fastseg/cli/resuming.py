"""`fastseg train --resume` continues a run with its recorded options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

from .._schema import shown
from ..engine import checkpoint
from ..engine.run_folder import RUN, has_run, read_options
from .console import fail

# Options of this start and this machine, not of the run.
_OF_THE_START = frozenset(
    {"resume", "out_dir", "device", "threads", "workers", "cache_gb", "time_limit", "max_pixels"}
)
# Options that a later start may change; the new value is recorded.
_CHANGEABLE = frozenset({"epochs", "iterations", "accumulate", "validate_every"})
_LENGTHS = ("epochs", "iterations")
_FROM_CONFIG = {"scale": "scale_range"}  # name in TrainConfig -> option, where they differ
# Options that may be the name of a file, or something else.
_PERHAPS_FILES = frozenset({"encoder_weights", "label_map"})
_RECORDED = "fastseg.recorded options"  # key of the context's meta


class ResumableCommand(TyperCommand):
    """A command whose defaults, with --resume, are what the run in --out recorded."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = _given(self, ctx, args)
        if given.get("resume"):
            folder = Path(given.get("out_dir") or _default(self, "out_dir"))
            recorded = _recorded(folder)
            ctx.meta[_RECORDED] = recorded
            defaults = dict(recorded)
            if any(given.get(name) is not None for name in _LENGTHS):
                for name in _LENGTHS:  # one length takes the place of the other
                    defaults.pop(name, None)
            ctx.default_map = {**(ctx.default_map or {}), **defaults}
            if "dataset" not in recorded and not given.get("dataset"):
                what = (
                    f"the run in {folder} did not record its data set; give it"
                    if has_run(folder)
                    else f"{folder} holds no run to continue; give the data set to begin one"
                )
                fail(f"--resume: {what}")
            try:
                return super().parse_args(ctx, args)
            except typer.BadParameter as error:
                name = (error.param.name if error.param else None) or ""
                if given.get(name) is not None or name not in recorded:
                    raise
                fail(f"{folder / RUN}: options.{name} is {shown(recorded[name])}: {error.message}")
        return super().parse_args(ctx, args)


def _given(command: Any, ctx: Any, args: list[str]) -> dict[str, Any]:
    """The options on the command line, as text; wrong ones are left out and reported later."""
    try:
        return command.make_parser(ctx).parse_args(args=list(args))[0]
    except Exception:
        return {}


def _default(command: Any, name: str) -> Any:
    return next(parameter.default for parameter in command.params if parameter.name == name)


def _recorded(folder: Path) -> dict[str, Any]:
    """The options of the run in a folder, also if it is older than their recording."""
    try:
        options = read_options(folder)
        if options is not None:
            return options
        if not has_run(folder):
            return {}
        _, state, _ = checkpoint.load_latest(folder)
    except (ValueError, checkpoint.CheckpointError) as error:
        fail(error)
    except OSError as error:
        fail(f"{folder}: {error.strerror}")
    options = {_FROM_CONFIG.get(k, k): v for k, v in state["config"].items() if k != "init"}
    description = state["description"]
    return {**options, "model": description.architecture, "encoder": description.encoder}


def options_to_record(ctx: typer.Context) -> dict[str, Any]:
    """The options of a run as plain values, for --resume."""
    return {
        name: _plain(name, value) for name, value in ctx.params.items() if name not in _OF_THE_START
    }


def check_given(ctx: typer.Context) -> None:
    """Refuses options beside --resume that contradict the recorded ones and may not change.

    Ends the command and names all of them.
    """
    recorded: Mapping[str, Any] = ctx.meta.get(_RECORDED, {})
    wrong = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        source = ctx.get_parameter_source(name)
        if source is None or source.name != "COMMANDLINE" or name not in recorded:
            continue
        value = _plain(name, ctx.params[name])
        if name in _OF_THE_START | _CHANGEABLE or value == recorded[name]:
            continue
        option = max(parameter.opts, key=len)
        if not option.startswith("-"):  # an argument's name
            option = name.upper()
        wrong.append(f"{option} is {_text(value)}, was {_text(recorded[name])}")
    if wrong:
        fail(
            f"--resume goes on with the options of the run: {'; '.join(wrong)}; leave these out, "
            "or choose another --out for another run"
        )


def _plain(name: str, value: Any) -> Any:
    """Makes a value for JSON; paths become absolute, as the next start may be elsewhere."""
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, Path) or (name in _PERHAPS_FILES and value and Path(value).is_file()):
        return str(Path(value).absolute())
    return value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(str(item) for item in value) or "nothing"
    return value if isinstance(value, str) else shown(value)
