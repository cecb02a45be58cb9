"""Text from files is printed as it is: nothing in it is markup, emoji or a control sequence."""

from __future__ import annotations

import ast
import dataclasses
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastseg.classes import ClassSet, numbered_classes
from fastseg.cli import console
from fastseg.cli.app import app
from fastseg.cli.confusion import draw_confusion
from fastseg.cli.overlay import write_before_after, write_overlay
from fastseg.models import PSPNet

CLI = Path(console.__file__).parent
ODD_NAMES = (
    "road [wet]", "[/x]", "[bold]", ":car:", "a\nb", "\x1b[31mred", "$x^2$", "$\\frac{",
    "x" * 5000, "\\", "[link=file:///etc]x[/link]", "", "\u202eevil", "Straße", "\ud83d",
)  # fmt: skip


def odd_classes(count: int = len(ODD_NAMES)) -> ClassSet:
    return dataclasses.replace(numbered_classes(count), names=ODD_NAMES[:count])


def printed(function: object, *arguments: object) -> str:
    """What a function of the console's prints, on a wide terminal of another one."""
    stream = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(console._out, "_file", stream)
        patch.setattr(console._err, "_file", stream)
        patch.setattr(console._out, "_width", 20_000)
        function(*arguments)  # type: ignore[operator]
    return stream.getvalue()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_markup_in_lines_and_cells_is_text(name: str) -> None:
    plain = console.one_line(name)
    for function in (console.say, console.note, console.report):
        output = printed(function, f"<{name}>")
        assert output.count("\n") == 1
        assert f"<{console.one_line(name)}>" in output or f"< {plain}" in output or not plain
        assert "\x1b" not in output

    def table() -> None:
        rows = console.Table(f"title {name}", f">{name}", "other")
        rows.add(name, (("■ ", "rgb(1,2,3)"), (name, "")))
        rows.print()
        pairs = console.Pairs()
        pairs.add(name, name)
        pairs.print()

    output = printed(table)
    assert output.count(plain) >= 5
    assert "\x1b" not in output


@pytest.mark.parametrize("name", ODD_NAMES)
def test_markup_in_progress_is_text(name: str) -> None:
    bar = console.progress("loss {task.fields[loss]}")
    bar.add_task(console.one_line(f"reading {name}"), total=2, loss="[/x]")
    output = printed(lambda: console._out.print(bar.get_renderable()))
    assert console.one_line(f"reading {name}") in output
    assert "loss [/x]" in output


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in [*sorted(CLI.glob("*.py")), CLI.parent / "bench" / "report.py"]:
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def test_markup_cannot_come_from_elsewhere() -> None:
    """All text for the terminal goes through `console`, and nothing there reads markup."""
    for path, tree in modules():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if path.name not in ("console.py", "report.py"):
                assert not any(n.split(".")[0] == "rich" for n in names), f"{path}:{node.lineno}"
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).split(".")[-1]
            keywords = {word.arg: word.value for word in node.keywords}
            where = f"{path}:{node.lineno}"
            assert name not in ("from_markup", "render", "rule", "secho"), where
            if name in ("Console", "TextColumn") and None not in keywords:
                assert ast.unparse(keywords["markup"]) == "False", where
            if name == "Console" and None in keywords:
                assert ast.unparse(keywords[None]) == "_PLAIN", where
            if name == "echo":
                raise AssertionError(f"{where}: echo instead of console.say")
            if name == "print" and isinstance(node.func, ast.Name):
                # Only JSON and the version go straight to stdout.
                text = ast.unparse(node)
                assert "json.dumps" in text or "__version__" in text, where


@pytest.mark.parametrize("count", [1, 2, len(ODD_NAMES)])
def test_odd_class_names_in_pictures(tmp_path: Path, count: int) -> None:
    pytest.importorskip("matplotlib")
    classes = odd_classes(count)
    labels = (numpy.arange(30 * 40) % count).reshape(30, 40)
    photo = numpy.zeros((30, 40, 3), "uint8")
    write_overlay(tmp_path / "overlay.png", photo, labels, classes)
    write_before_after(tmp_path / "pair.png", photo, labels, labels, classes)
    draw_confusion(tmp_path / "confusion.png", torch.ones(count, count).long(), classes)
    for path in tmp_path.iterdir():
        with Image.open(path) as image:
            assert max(image.size) < 3000


@pytest.fixture(scope="module")
def odd_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    names = tuple(name for name in ODD_NAMES[:8] if "\n" not in name and "\x1b" not in name)
    classes = dataclasses.replace(numbered_classes(len(names)), names=names)
    PSPNet("resnet18", encoder_weights=None, classes=classes).eval().save_pretrained(folder)
    return folder


def test_odd_names_through_segment(odd_model: Path, photo: numpy.ndarray, tmp_path: Path) -> None:
    names = ["[bold]photo[/bold].png", ":car:[/].png", "a  b.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(photo).save(tmp_path / name)
    (tmp_path / "[red]broken.png").write_bytes(b"none")
    out = tmp_path / "[o]"
    command = ["segment", str(tmp_path), "-w", str(odd_model), "-o", str(out)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "[red]broken.png" in result.stderr
    assert f"results in {out}" in result.stdout
    assert len(list(out.rglob("*_labels.png"))) == len(names)


@pytest.mark.skipif(os.name == "nt", reason="file names are text there")
def test_names_that_are_no_text_and_terminals_without_unicode(
    odd_model: Path, photo_file: Path, tmp_path: Path
) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff\xc3.png"
    with open(odd, "wb") as file:
        file.write(photo_file.read_bytes())
    (tmp_path / "Straße.png").write_bytes(photo_file.read_bytes())
    command = [sys.executable, "-m", "fastseg", "segment", str(tmp_path), "-w", str(odd_model)]
    for encoding in ("utf-8", "ascii", "cp1252"):
        out = os.fsencode(tmp_path) + b"/out\xfe"
        done = subprocess.run(
            [os.fsencode(c) for c in [*command, "-o"]] + [out], capture_output=True, check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"3 images" in done.stdout
