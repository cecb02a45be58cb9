"""The harness of the fuzz tests sees what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import Case, Result, run_cases


def test_a_case_has_its_files_and_says_how_it_ended(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("[")
    cases = [
        Case("version", ("--version",)),
        Case("no data", ("eval", "{folder}/none")),
        Case("not JSON", ("bench", "report", "{folder}/sub/a.json"), {"sub/a.json": b"["}),
        Case("linked", ("bench", "report", "{folder}/b"), {}, {"b": f"{tmp_path}/bad.json"}),
        Case("wrong option", ("eval", "--none")),
    ]
    results = list(run_cases(cases))
    assert [result.case for result in results] == cases
    assert [result.code for result in results] == [0, 1, 1, 1, 2]
    assert [result.problem for result in results] == 5 * [""]
    assert "none: no such folder" in results[1].stderr
    assert "a.json" in results[2].stderr


@pytest.mark.parametrize(
    ("code", "stderr", "error", "fine"),
    [
        (0, "a warning", "", True),
        (1, "reading\nerror: a.png: damaged\n", "", True),
        (2, "usage: ...", "", True),
        (1, "", "", False),
        (1, "error: a\nerror: b\n", "", False),
        (1, "error: a.png: damaged\nthe second line of it\n", "", False),
        (1, "error: \n", "", False),
        (0, "Traceback (most recent call last):\n", "", False),
        (1, "", "Traceback ...", False),
        (None, "", "the process ended with -11", False),
    ],
)
def test_what_is_a_problem(code: int | None, stderr: str, error: str, fine: bool) -> None:
    result = Result(Case("x", ("eval",)), code, "", stderr, error)
    assert (result.problem == "") is fine


def test_crashes_and_limits_cost_one_case() -> None:
    """A child whose commands crash, hang or take too much: the cases in between are fine."""
    bodies = {
        "import ctypes; ctypes.string_at(0)": "Segmentation fault",
        "raise RuntimeError('boom')": "boom",
        "import time; time.sleep(60)": "Timeout",
        "bytearray(3 << 30)": "MemoryError",
    }
    cases = [Case(body, (body,)) for bad in bodies for body in (bad, "pass")]
    program = "import fuzzing; fuzzing.SECONDS = 3.0; fuzzing.serve(lambda a: exec(a[0]))"
    results = list(run_cases(cases, program))
    assert [result.problem for result in results[1::2]] == 4 * [""]
    for result, words in zip(results[::2], bodies.values(), strict=True):
        assert words in result.problem
