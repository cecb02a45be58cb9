"""docs/tutorial.md: every command of the page runs, and does what the page says."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
from pathlib import Path

import numpy
import pytest
import torch

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("typer")
pytest.importorskip("rich")
pytest.importorskip("matplotlib")

from typer.testing import CliRunner  # noqa: E402

from fastseg.cli.app import app  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"


def blocks() -> list[tuple[str, str]]:
    """(language, text) of the fenced blocks, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def commands() -> list[list[str]]:
    """The words of every command of the page but the installation."""
    text = "".join(content for language, content in blocks() if language == "sh")
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("pip install")]


def test_all_commands_are_known() -> None:
    assert {language for language, _ in blocks()} == {"sh", "python"}
    assert len(commands()) == 10
    assert {command[0] for command in commands()} == {"python", "fastseg"}


def test_all_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE.read_text(encoding="utf-8"))
    assert len(pictures) == 4
    for picture in pictures:
        with Image.open(PAGE.parent / picture) as image:
            image.verify()


@pytest.fixture(scope="module")
def run_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder in which the page was followed, and what each command printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    programs = [text for language, text in blocks() if language == "python"]
    (folder / "make_shapes.py").write_text(programs[0], encoding="utf-8")
    (folder / "from_python.py").write_text(programs[1], encoding="utf-8")
    printed = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the pictures are too small for more, and other tests run beside
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in commands():
            if words[0] == "python":
                runpy.run_path(words[1], run_name="__main__")
                continue
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, (words, result.stderr, result.exception)
            printed[" ".join(words)] = result.stdout + result.stderr
        with contextlib.redirect_stdout(io.StringIO()) as output:
            runpy.run_path("from_python.py", run_name="__main__")
    printed["from_python.py"] = output.getvalue()
    torch.set_num_threads(threads)
    return folder, printed


@pytest.mark.slow
def test_every_command_works(run_page: tuple[Path, dict[str, str]]) -> None:
    folder, printed = run_page
    text = "\n".join(printed.values())
    assert "the labels are 0 and 255: 0 is background, 255 is foreground" in text
    assert "layout folders: 32 train, 8 val" in text
    assert "layout pairs: 32 train, 8 val" in text
    for name in ("best.pt", "last.pt", "curve.png"):
        assert (folder / "shapes-run" / name).is_file()
    for name in ("labels", "overlay", "before_after"):
        with Image.open(folder / "shapes-results" / f"00_{name}.png") as image:
            assert image.height >= 288
    assert printed["from_python.py"].startswith("{'background': ")


@pytest.mark.slow
def test_the_models_have_learned_something(run_page: tuple[Path, dict[str, str]]) -> None:
    folder, _ = run_page
    scores = json.loads((folder / "shapes-scores" / "eval.json").read_text())
    assert [entry["name"] for entry in scores["classes"]] == [
        "background", "circle", "square", "triangle",
    ]  # fmt: skip
    assert scores["mIoU"] > 0.5  # about 0.8; background alone has 0.21
    history = json.loads((folder / "spots-run" / "metrics.json").read_text())
    assert history["config"]["iterations"] == 60
    truth = numpy.asarray(Image.open(folder / "spots" / "test" / "00_mask.png")) == 255
    with Image.open(folder / "spots-results" / "00_labels.png") as image:
        found = numpy.asarray(image) == 1
    assert (truth & found).sum() / (truth | found).sum() > 0.4
