"""`fastseg info`: what this installation is, and what each op can run on here."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .. import _native
from .._private_torch import TorchDispatchMode
from .._version import __version__
from ..backends import Backend, BackendUnavailable, unsupported_reasons
from ..registry import ALL_OPS
from ..testing.samples import Maker
from .console import Cell, Pairs, Table, say


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON to stdout.")] = False,
) -> None:
    """Show versions, the build, the machine, and each op's backends, or why they cannot run."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    facts = {
        "versions": _versions(),
        "build": _build(),
        "machine": _machine(),
        "ops": {device: op_backends(device) for device in devices},
    }
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)


def op_backends(device: str) -> dict[str, dict[str, dict[str, str | None]]]:
    """Tries each backend of each op on the op's float32 samples on `device`.

    Returns:
        Op -> backend -> {"runs": "all", "some" or "none", "reason": why not all, or None}.
    """
    return {name: _backends_of(name, device) for name in ALL_OPS}


def _backends_of(name: str, device: str) -> dict[str, dict[str, str | None]]:
    samples = importlib.import_module(f"fastseg.ops.{name}.samples").SAMPLES
    recorder = _OpArguments(name)
    with recorder, torch.no_grad():
        for sample in samples.samples:
            # Where no backend can run it, the arguments have been recorded all the same.
            with contextlib.suppress(BackendUnavailable):
                samples.function(**sample.inputs(Maker(torch.float32, device)))
    result = {}
    for backend in ALL_OPS[name].backends:
        reasons = [
            unsupported_reasons(ALL_OPS[name], "forward", arguments)[backend]
            for arguments in recorder.calls
        ]
        refusals = [reason for reason in reasons if reason is not None]
        runs = "all" if not refusals else "some" if len(refusals) < len(reasons) else "none"
        result[backend.value] = {"runs": runs, "reason": refusals[0] if refusals else None}
    return result


class _OpArguments(TorchDispatchMode):
    """Records the arguments with which the public function of an op calls its kernel."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._qualified = f"fastseg::{name}"
        self.calls: list[dict[str, Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.name() == self._qualified:
            names = [a.name for a in func._schema.arguments]
            defaults = [a.default_value for a in func._schema.arguments[len(args) :]]
            self.calls.append(dict(zip(names, (*args, *defaults), strict=True)))
        return func(*args, **(kwargs or {}))


def _versions() -> dict[str, str | None]:
    def installed(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "fastseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": installed("triton"),
        "numpy": installed("numpy"),
    }


def _build() -> dict[str, Any]:
    core = _native._C
    if core is None:
        return {"error": _native.load_error}
    return {
        "compiler": core.compiler,
        "cuda": core.with_cuda,
        "openmp": core.with_openmp,
        "error": _native.load_error,
    }


def _machine() -> dict[str, Any]:
    core = _native._C
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cpu_level": core.cpu_level().name if core is not None else None,
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda_of_torch": torch.version.cuda,
    }


def _cpu_name() -> str:
    with_names = Path("/proc/cpuinfo")
    if with_names.exists():
        for line in with_names.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _print(facts: dict[str, Any]) -> None:
    versions, build, machine = facts["versions"], facts["build"], facts["machine"]
    lines = Pairs()
    for name, version in versions.items():
        lines.add(name, version or "not installed")
    if build["error"]:
        lines.add("native core", build["error"])
    else:
        cuda = "yes" if build["cuda"] else "no"
        openmp = "yes" if build["openmp"] else "no"
        lines.add("native core", f"compiler {build['compiler']}, CUDA {cuda}, OpenMP {openmp}")
    level = machine["cpu_level"] or "no native core"
    lines.add("CPU", f"{machine['cpu']} ({level}, {machine['threads']} threads)")
    lines.add("GPU", ", ".join(machine["gpus"]) or f"none seen by torch{_torch_cuda(machine)}")
    lines.print()
    for device, ops in facts["ops"].items():
        _print_ops(device, ops)


def _torch_cuda(machine: dict[str, Any]) -> str:
    version = machine["cuda_of_torch"]
    return f" (built for CUDA {version})" if version else " (built without CUDA)"


def _print_ops(device: str, ops: dict[str, dict[str, dict[str, str | None]]]) -> None:
    """Prints a table of ops and backends; numbered reasons follow below it."""
    used = [b.value for b in Backend if any(b.value in reasons for reasons in ops.values())]
    table = Table(f"ops on {device}", "op", *(f"^{backend}" for backend in used))
    notes: list[str] = []
    for name, reasons in ops.items():
        cells: list[Cell] = []
        for backend in used:
            if backend not in reasons:
                cells.append((("-", "dim"),))
                continue
            why = reasons[backend]["reason"]
            if why is None:
                cells.append((("yes", "green"),))
                continue
            if why not in notes:
                notes.append(why)
            word = "partly" if reasons[backend]["runs"] == "some" else "no"
            cells.append(((f"{word} ({notes.index(why) + 1})", "yellow"),))
        table.add(name, *cells)
    say("")
    table.print()
    for number, note in enumerate(notes, start=1):
        say(f"({number}) {note}")
