"""`fastseg bench` on a tiny workload, and its report of stored results."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import fastseg.bench
import fastseg.cli.bench
from fastseg.bench import Ceilings, results
from fastseg.bench.report import table
from fastseg.cli.bench import app
from fastseg.testing import OpSamples

STORED = Path(__file__).parent / "stored.json"
PNG = b"\x89PNG"


@pytest.fixture(autouse=True)
def _tiny(tiny: OpSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastseg.bench, "all_samples", lambda: {"upsample_bilinear": tiny})
    monkeypatch.setattr(fastseg.cli.bench, "QUICK_BUDGET_S", 0.0)
    monkeypatch.setattr(fastseg.bench, "measure_ceilings", lambda device: Ceilings(1e10, 1e11))


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def rendered(data: dict[str, Any], width: int) -> str:
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as capture:
        console.print(table(data, width))
    return capture.get()


def test_quick(tmp_path: Path) -> None:
    outcome = invoke("quick", "--cpu", "--out", str(tmp_path / "new"))
    assert outcome.exit_code == 0, outcome.output
    data = results.load(tmp_path / "new" / "fastseg-bench.json")
    directions = [row["direction"] for row in data["results"]]
    assert directions == ["forward out=", "backward", "forward+backward"]
    assert all(0 < row["fraction_of_ceiling"] for row in data["results"])
    assert (tmp_path / "new" / "fastseg-bench.png").read_bytes().startswith(PNG)
    assert "upsample_bilinear" in outcome.output and "vs eager" in outcome.output


def test_run_and_report(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    options = ("--cpu", "--no-compile", "--budget", "0", "--dtype", "bfloat16")
    outcome = invoke("run", *options, "--out", str(file))
    assert outcome.exit_code == 0, outcome.output
    assert {row["dtype"] for row in results.load(file)["results"]} == {"bfloat16"}
    outcome = invoke("report", str(file), "--png", str(tmp_path / "p.png"))
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)


def test_wrong_op_fails_but_is_reported(
    tiny: OpSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(**arguments: Any) -> Any:
        return tiny.function(**arguments) * 1.01

    samples = dataclasses.replace(tiny, function=wrong, peer_out=None)
    monkeypatch.setattr(fastseg.bench, "all_samples", lambda: {"good": tiny, "bad": samples})
    outcome = invoke("quick", "--cpu", "--out", str(tmp_path))
    assert outcome.exit_code == 1
    data = results.load(tmp_path / "fastseg-bench.json")
    assert {row["op"] for row in data["results"]} == {"good"}
    assert data["failures"][0]["case"] == "bad tiny float32 backward"
    assert "NOT TIMED" in outcome.output


def test_unknown_names() -> None:
    outcome = invoke("quick", "--op", "downsample")
    assert outcome.exit_code == 1 and "allowed are upsample_bilinear" in outcome.output
    outcome = invoke("run", "--cpu", "--dtype", "float16")
    assert outcome.exit_code == 1 and "allowed are float32, bfloat16" in outcome.output


def test_report_of_stored_results(tmp_path: Path) -> None:
    outcome = invoke("report", str(STORED), "--png", str(tmp_path / "p.png"))
    assert outcome.exit_code == 0, outcome.output
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
    text = rendered(results.load(STORED), 150)
    assert "Example CPU, 2 threads" in text
    assert "16.0x" in text and "8.00x" in text  # faster layout of either side
    assert "50%" in text and "12.3 / 400" in text
    assert "no compile NCHW: RuntimeError: no compiler" in text


def test_narrow_table_keeps_the_ratios() -> None:
    text = rendered(results.load(STORED), 90)
    assert "16.0x" in text and "12.3 / 400" not in text


def test_report_of_pytest_benchmark_json(tmp_path: Path) -> None:
    data = json.loads(STORED.read_text())
    about = {name: data[name] for name in ("machine", "ceilings", "settings")}
    file = tmp_path / "pytest.json"
    entries = [{"extra_info": {results.FORMAT: row}} for row in data["results"]]
    others = ("fastseg-models", "fastseg-heads", "fastseg-accelerate", "ratio")
    entries += [{"extra_info": {key: {}}} for key in others]
    file.write_text(json.dumps({"machine_info": {results.FORMAT: about}, "benchmarks": entries}))
    assert results.load(file)["results"] == data["results"]


_NO_ROW = json.dumps(
    {"machine_info": {results.FORMAT: {}}, "benchmarks": [{"extra_info": {"fastseg-models": {}}}]}
).encode()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"{", b"[]", b'{"a": 1}', b'"x"', _NO_ROW])
def test_report_of_a_file_that_holds_no_results(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    outcome = invoke("report", str(file))
    assert outcome.exit_code == 1
    assert "bad.json" in outcome.output and "Traceback" not in outcome.output


def test_report_of_a_missing_file(tmp_path: Path) -> None:
    outcome = invoke("report", str(tmp_path / "none.json"))
    assert outcome.exit_code == 1 and "No such file" in outcome.output
