"""Many runs of the command line on odd files, in child processes with limits.

`run_cases` writes the files of each case to a folder of its own, runs `fastseg` on them and says
how it ended. A child runs many cases one after the other, for importing torch takes seconds; one
that dies, hangs or grows too large costs its own case only, and a new child takes the next.

    cases = [Case("empty", ("eval", "{folder}"), {"classes.json": b""})]
    failures = [problem for result in run_cases(cases) if (problem := result.problem)]
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
SECONDS = 20.0  # per case
MEMORY = 2 << 30  # address space of a child
FULL = "FASTSEG_FUZZ"  # environment variable: run this many cases per test instead of a few dozen
SEED = "FASTSEG_FUZZ_SEED"  # environment variable: other cases than those of seed 0


def count(usual: int) -> int:
    """How many cases a test runs."""
    return int(os.environ.get(FULL, usual))


def numbers(test: int) -> random.Random:
    """The random numbers of one test, from which it makes its cases."""
    return random.Random(1000 * int(os.environ.get(SEED, 0)) + test)


@dataclasses.dataclass(frozen=True)
class Case:
    """A command on files.

    Attributes:
        name: what it is, for people who read that it failed.
        arguments: of `fastseg`; "{folder}" in them is the folder of the files.
        files: relative path -> content.
        links: relative path -> existing file or folder that the command only reads.
    """

    name: str
    arguments: tuple[str, ...]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Result:
    """How a case ended.

    Attributes:
        code: exit code; None where the process died, hung, or was stopped by a limit.
        error: the traceback, or how the process ended; "" if neither.
    """

    case: Case
    code: int | None
    stdout: str = ""
    stderr: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def problem(self) -> str:
        """What is wrong with the way it ended; "" if nothing is.

        Right is exit code 0, or another one with one line that says why: "error: ...", the last.
        Exit code 2 is for wrong arguments, which typer explains in a box.
        """
        about = f"{self.case.name}: fastseg {' '.join(self.case.arguments)}"
        if self.error:
            return f"{about}\n{self.error}"
        if "Traceback (most recent call last)" in self.stderr + self.stdout:
            return f"{about}\na traceback was printed: {self.stderr[-2000:]}"
        if self.code in (0, 2):
            return ""
        lines = self.stderr.strip().splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        if len(errors) != 1 or errors[0] != lines[-1] or len(errors[0]) < 12:
            return f"{about}\nexit code {self.code}, but not one line says why: {self.stderr!r}"
        return ""


def run_cases(
    cases: Iterable[Case], program: str = "import fuzzing; fuzzing.serve()"
) -> Iterator[Result]:
    """Runs cases in children, in order.

    Args:
        program: of a child, in Python.
    """
    waiting = iter(cases)
    case = next(waiting, None)
    while case is not None:
        with _child(program) as (process, errors):
            while case is not None:
                result = _run_in(process, errors, case)
                yield result
                case = next(waiting, None)
                if result.code is None:
                    break


@contextlib.contextmanager
def _child(program: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    environment = {
        **os.environ, "COLUMNS": "160", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1",
        "PYTHONWARNINGS": "default", "MALLOC_ARENA_MAX": "1",
    }  # fmt: skip
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
        try:
            yield process, errors
        finally:
            process.kill()
            process.communicate()


def _run_in(process: subprocess.Popen[bytes], errors: IO[bytes], case: Case) -> Result:
    assert process.stdin is not None and process.stdout is not None
    # Twice the time of a case: the child ends itself first, and says where it was.
    stop = threading.Timer(2 * SECONDS + 60, process.kill)
    stop.start()
    try:
        pickle.dump(case, process.stdin)
        process.stdin.flush()
        return pickle.load(process.stdout)
    except (EOFError, OSError, pickle.UnpicklingError):
        process.kill()
        code = process.wait()
        errors.seek(0)
        said = errors.read()[-3000:].decode(errors="replace")
        return Result(case, None, error=f"the process ended with {code}: {said}")
    finally:
        stop.cancel()


def serve(run: Callable[[list[str]], object] | None = None) -> None:
    """What a child does: reads pickled cases from stdin, runs them, writes pickled results.

    Args:
        run: called with the arguments of each case; by default the command line.
    """
    import faulthandler

    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints shall not end up among the answers
    sys.stdin = open(os.devnull)

    import torch

    from fastseg.cli.app import app

    torch.set_num_threads(1)
    run = run or partial(app, prog_name="fastseg")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            case: Case = pickle.load(requests)
        except EOFError:
            return
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
        with tempfile.TemporaryDirectory() as folder:
            result = _run_one(run, case, Path(folder))
        faulthandler.cancel_dump_traceback_later()
        pickle.dump(result, answers)
        answers.flush()


def _run_one(run: Callable[[list[str]], object], case: Case, folder: Path) -> Result:
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name, target in case.links.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    arguments = [argument.replace("{folder}", str(folder)) for argument in case.arguments]
    out, err = io.StringIO(), io.StringIO()
    code: int | None = 0
    error = ""
    began = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            if isinstance(end.code, str):
                err.write(end.code)
        except BaseException:
            code, error = 1, traceback.format_exc()[-3000:]
    seconds = time.monotonic() - began
    return Result(case, code, out.getvalue(), err.getvalue(), error, seconds)
