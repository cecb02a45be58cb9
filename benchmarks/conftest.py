"""Turns the workloads of every op's samples.py into benchmarks.

Each benchmark checks its case and times fastseg and its peers in turn (fastseg.bench); the whole
row of results goes into extra_info. Then pytest-benchmark times fastseg alone with its own clock:
two timers that should agree. A GPU's workloads are taken where there is a GPU, unless `--cpu` is
given. `--no-compile` leaves out torch.compile, whose compiling takes most of the time; `--quick`
does that too, and takes one workload per op. `--stop-after` skips what would begin too late:
pytest-benchmark writes its file last, and a run that is killed has none.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from fastseg.bench import (
    Case,
    Ceilings,
    Settings,
    describe_machine,
    make_cases,
    measure_ceilings,
    rate,
    results,
    run_case,
)
from fastseg.bench.candidates import OURS, Problem
from fastseg.bench.cases import all_samples, as_word

QUICK = Settings(budget_s=0.5, min_rounds=3, compile=False, other_peers=False)
PEDANTIC_ROUNDS = 5


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastseg")
    group.addoption("--quick", action="store_true", help="one workload per op, no torch.compile")
    group.addoption("--no-compile", action="store_true", help="torch.compile is not a peer")
    group.addoption("--cpu", action="store_true", help="the CPU's workloads even beside a GPU")
    group.addoption("--stop-after", type=float, metavar="SECONDS", help="begin none after that")


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_STARTED] = time.monotonic()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ops before whole models and heads: where time runs out, those that are short have run. What
    needs a GPU before what runs on the CPU beside one."""
    items.sort(
        key=lambda item: (
            "case" not in getattr(item, "fixturenames", ()),
            not item.path.stem.endswith("_gpu"),
        )
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    limit = item.config.getoption("--stop-after")
    if limit is not None and time.monotonic() - item.config.stash[_STARTED] > limit:
        pytest.skip(f"not begun within {limit:g} s")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """pytest-benchmark fails on a benchmark that was interrupted, and would write nothing."""
    benchmarks = session.config._benchmarksession.benchmarks
    benchmarks[:] = [b for b in benchmarks if b.stats.data]


def _device(config: pytest.Config) -> str:
    return "cuda" if torch.cuda.is_available() and not config.getoption("--cpu") else "cpu"


def _settings(config: pytest.Config) -> Settings:
    if config.getoption("--quick"):
        return QUICK
    return Settings(compile=not config.getoption("--no-compile"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`case` runs over the cases of every op."""
    if "case" in metafunc.fixturenames:
        quick = metafunc.config.getoption("--quick")
        device = _device(metafunc.config)
        cases = [
            case
            for op, samples in all_samples().items()
            for case in make_cases(op, samples, device, quick=quick)
        ]
        metafunc.parametrize("case", cases, ids=as_word)


@pytest.fixture(scope="session")
def ceilings(pytestconfig: pytest.Config) -> Ceilings:
    """What this machine can do at best, measured when the first benchmark starts."""
    return measure_ceilings(_device(pytestconfig))


@pytest.fixture
def run(
    benchmark: Any, ceilings: Ceilings, pytestconfig: pytest.Config
) -> Iterator[Callable[[Case], None]]:
    """Runs one case and hands its results to pytest-benchmark."""

    def check_and_time(case: Case) -> None:
        row = run_case(case, _settings(pytestconfig))  # raises where the result is wrong
        rate(row, ceilings)
        benchmark.group = case.op
        benchmark.extra_info[results.FORMAT] = row
        pytestconfig.stash.setdefault(_ROWS, []).append(row)
        pytestconfig.stash[_CEILINGS] = ceilings

        variant = Problem(case).candidate(OURS, case.samples.function, row["best_layout"]).variant

        def call(state: Any) -> None:
            variant.run(state)
            if case.device == "cuda":
                torch.cuda.synchronize()

        benchmark.pedantic(
            call, setup=lambda: ((variant.setup(),), {}), rounds=PEDANTIC_ROUNDS, warmup_rounds=1
        )

    yield check_and_time


@pytest.fixture
def say(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Prints a line after all tests, when output is no longer captured."""
    return pytestconfig.stash.setdefault(_LINES, []).append


_STARTED = pytest.StashKey[float]()
_LINES = pytest.StashKey[list[str]]()
_ROWS = pytest.StashKey[list[dict[str, Any]]]()
_CEILINGS = pytest.StashKey[Ceilings]()


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Machine, ceilings and settings, so that `fastseg bench report` reads the file."""
    if _CEILINGS in config.stash:  # set by the first benchmark of an op
        output_json["machine_info"][results.FORMAT] = _about(config)


def _about(config: pytest.Config) -> dict[str, Any]:
    return {
        "machine": describe_machine(_device(config)),
        "ceilings": dataclasses.asdict(config.stash[_CEILINGS]),
        "settings": dataclasses.asdict(_settings(config)),
    }


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table with the peers, which pytest-benchmark's own table does not know."""
    for line in config.stash.get(_LINES, []):
        terminalreporter.write_line(line)
    rows = config.stash.get(_ROWS, [])
    if not rows:
        return
    from rich.console import Console

    from fastseg.bench.report import table

    console = Console(width=150)
    data = {**_about(config), "results": rows, "failures": []}
    with console.capture() as capture:
        console.print(table(data, console.width))
    terminalreporter.write_line(capture.get())
