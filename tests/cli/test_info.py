"""`fastseg info`, the program itself, and what it does when packages are missing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import fastseg
from fastseg.backends import Backend
from fastseg.cli.app import app
from fastseg.registry import ALL_OPS


def test_table_names_every_op() -> None:
    result = CliRunner().invoke(app, ["info"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for word in ("fastseg", "torch", "triton", "native core", "OpenMP", "CPU", *ALL_OPS):
        assert word in result.stdout


def test_json_gives_a_reason_or_none_for_every_backend() -> None:
    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["versions"]["fastseg"] == fastseg.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert set(facts["build"]) == {"compiler", "cuda", "openmp", "error"}
    assert facts["machine"]["cpu_level"] in ("baseline", "avx2", "avx512")
    ops = facts["ops"]["cpu"]
    assert set(ops) == set(ALL_OPS)
    for name, reasons in ops.items():
        assert set(reasons) == {backend.value for backend in ALL_OPS[name].backends}
        assert reasons["reference"] == {"runs": "all", "reason": None}
        assert any(r["runs"] != "none" for b, r in reasons.items() if b != "reference"), name
        for result in reasons.values():
            assert (result["runs"] == "all") == (result["reason"] is None)


def test_refusals_are_numbered_below_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    native = ALL_OPS["upsample_bilinear"].backends[Backend.NATIVE]
    monkeypatch.setattr(native, "unsupported_reason", lambda *_, **__: "has a day off")
    result = CliRunner().invoke(app, ["info"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "no (" in result.stdout
    assert "has a day off" in result.stdout
    facts = json.loads(CliRunner().invoke(app, ["info", "--json"]).stdout)
    native_result = facts["ops"]["cpu"]["upsample_bilinear"]["native"]
    assert native_result == {"runs": "none", "reason": "has a day off"}


def test_version_and_help() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout.strip()) == (0, fastseg.__version__)
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert "segment" in result.stdout
    assert "info" in result.stdout


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_missing_packages_are_one_line() -> None:
    """Hidden as if not installed: no such module is found."""
    done = python("""
import importlib.util, sys
find, hidden = importlib.util.find_spec, ""
importlib.util.find_spec = lambda name, *package: None if name == hidden else find(name, *package)
from fastseg.__main__ import main
for hidden in ("typer", "rich", "PIL"):
    try:
        main()
    except SystemExit as end:
        print(end.code)
""")
    assert done.stdout.split() == ["2", "2", "2"], done.stderr
    lines = done.stderr.strip().splitlines()
    for line, name in zip(lines, ("typer", "rich", "Pillow"), strict=True):
        assert name in line
        assert "pip install 'fastseg-kernels[cli]'" in line


def test_importing_the_package_imports_no_extras() -> None:
    done = python(
        "import sys, fastseg\n"
        "print([m for m in ('PIL', 'typer', 'rich', 'matplotlib', 'safetensors', 'triton', "
        "'torchvision') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr
