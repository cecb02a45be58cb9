"""`fastseg bench`: checks and times the ops against PyTorch on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._files import FolderError, check_folder, written_whole
from . import console
from .console import fail, one_line, reason, report
from .outputs import Outputs

if TYPE_CHECKING:
    from ..bench import Case, Settings

app = typer.Typer(
    help="Check and time the ops against PyTorch on this machine.", no_args_is_help=True
)

# Samples per variant in quick mode: few, since checking takes most of its minute.
QUICK_BUDGET_S, QUICK_ROUNDS = 0.5, 3

Ops = Annotated[
    list[str] | None, typer.Option("--op", help="Only this op; may be given several times.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads. Default: PyTorch's choice.")
]
Cpu = Annotated[bool, typer.Option("--cpu", help="Use the CPU even where there is a GPU.")]


@app.command()
def quick(
    folder: Annotated[
        Path, typer.Option("--out", help="Folder for fastseg-bench.png and fastseg-bench.json.")
    ] = Path("."),
    op: Ops = None,
    threads: Threads = None,
    cpu: Cpu = False,
) -> None:
    """Check and time every op on one workload, in under a minute on two cores.

    The peers are eager PyTorch in both memory layouts. Writes a table, a picture and a JSON file.
    """
    from ..bench import Settings

    file, picture = folder / "fastseg-bench.json", folder / "fastseg-bench.png"
    _check_outputs(file, picture)
    settings = Settings(QUICK_BUDGET_S, QUICK_ROUNDS, compile=False, other_peers=False)
    data = _run(settings, _device(cpu), op, None, threads, quick=True)
    _write(data, file)
    _show(data, picture)


@app.command()
def run(
    out_file: Annotated[
        Path, typer.Option("--out", help="JSON file to write; the picture goes beside it.")
    ] = Path("fastseg-bench.json"),
    op: Ops = None,
    dtype: Annotated[
        list[str] | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; may be given several times."),
    ] = None,
    threads: Threads = None,
    cpu: Cpu = False,
    compile_: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Whether torch.compile is a peer.")
    ] = True,
    budget: Annotated[
        float, typer.Option("--budget", min=0.0, help="Seconds of timing per case.")
    ] = 2.0,
) -> None:
    """Check and time every op on every workload, torch.compile among the peers.

    Takes some twenty minutes on two cores, most of them compiling, and a few with --no-compile; on
    a GPU the workloads are those of full-size training.
    """
    from ..bench import Settings

    picture = out_file.with_suffix(".png")
    _check_outputs(out_file, picture)
    settings = Settings(budget, compile=compile_)
    data = _run(settings, _device(cpu), op, dtype, threads, quick=False)
    _write(data, out_file)
    _show(data, picture)


@app.command("report")
def report_(
    file: Annotated[
        Path,
        typer.Argument(help="Written by 'fastseg bench' or 'pytest benchmarks/ --benchmark-json'."),
    ],
    picture: Annotated[
        Path | None, typer.Option("--png", help="Default: beside the file, with suffix .png.")
    ] = None,
) -> None:
    """Print the table of stored results and draw the picture."""
    from ..bench import results

    picture = picture or file.with_suffix(".png")
    try:
        Outputs([file], "--png").claim(picture)
        data = results.load(file)
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except (FolderError, ValueError) as error:
        fail(error)
    _show(data, picture)


def _check_outputs(*files: Path) -> None:
    """Fails before the work if its results cannot be written or would overwrite each other."""
    outputs = Outputs([])
    try:
        for file in files:
            check_folder("--out", outputs.claim(file).parent)
    except FolderError as error:
        fail(error)


def _device(cpu: bool) -> str:
    import torch

    return "cuda" if torch.cuda.is_available() and not cpu else "cpu"


def _run(
    settings: Settings,
    device: str,
    only: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    threads: int | None,
    *,
    quick: bool,
) -> dict[str, Any]:
    """Runs the cases between two measurements of the ceilings, with a progress bar."""
    import torch

    from ..bench import describe_machine, measure_ceilings, rate, results, run_case

    if threads is not None:
        torch.set_num_threads(threads)
    cases = _cases(device, only, dtypes, quick)
    machine = describe_machine(device)
    if machine["native_core"].startswith("not loaded"):
        report(f"timings below are not those of the kernels: native core {machine['native_core']}")
    rows, failures = [], []
    with console.progress(remaining=False) as progress:
        task = progress.add_task("ceilings of this machine", total=len(cases) + 2)
        ceilings = measure_ceilings(device)
        progress.advance(task)
        for case in cases:
            progress.update(task, description=str(case))
            try:
                rows.append(run_case(case, settings))
            except Exception as error:  # one broken case must not cost the other results
                failures.append({"case": str(case), "reason": one_line(error)})
            progress.advance(task)
        progress.update(task, description="ceilings of this machine")
        ceilings = ceilings.best(measure_ceilings(device))
        progress.advance(task)
        progress.update(task, description="done")
    for row in rows:
        rate(row, ceilings)
    return results.bundle(machine, ceilings, settings, rows, failures)


def _cases(
    device: str, only: Sequence[str] | None, dtypes: Sequence[str] | None, quick: bool
) -> list[Case]:
    from ..bench import all_samples, make_cases
    from ..bench.cases import DTYPES

    samples = all_samples()
    if unknown := set(only or ()) - set(samples):
        fail(f"--op is {', '.join(sorted(unknown))}, allowed are {', '.join(samples)}")
    by_name = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES[device]}
    if unknown := set(dtypes or ()) - set(by_name):
        fail(f"--dtype is {', '.join(sorted(unknown))}, allowed are {', '.join(by_name)}")
    chosen = [by_name[name] for name in dtypes] if dtypes else None
    return [
        case
        for op, table in samples.items()
        if not only or op in only
        for case in make_cases(op, table, device, dtypes=chosen, quick=quick)
    ]


def _write(data: dict[str, Any], path: Path) -> None:
    try:
        with written_whole(path) as file:
            file.write(json.dumps(data, indent=1).encode())
    except OSError as error:
        fail(f"{path}: cannot be written ({reason(error)})")
    console.note(f"results: {path}")


def _show(data: dict[str, Any], picture: Path) -> None:
    """Prints the table, draws the picture, and ends with code 1 if a case failed."""
    from ..bench.report import draw, table

    # Piped output has no width of its own, and a narrow table would lose its numbers.
    console.printed(lambda width: table(data, width))
    if data["results"]:
        try:
            picture.parent.mkdir(parents=True, exist_ok=True)
            draw(data, picture)
        except OSError as error:
            fail(f"{picture}: cannot be written ({reason(error)})")
        console.note(f"picture: {picture}")
    if data["failures"]:
        fail(f"{len(data['failures'])} of the cases failed, see above")
