"""Nothing is written over a file that the command reads, nor over another result of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image
from tiny_data import make_dataset
from typer.testing import CliRunner, Result

from fastseg.cli.app import app
from fastseg.cli.images import find_images
from fastseg.cli.outputs import OutputError, Outputs


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 1, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    for word in ("error: ", "choose another --", *words):
        assert word in lines[0], lines[0]


@pytest.fixture
def files(photo: numpy.ndarray, tmp_path: Path) -> Path:
    """A photograph a.png and a label map a_labels.png, which is what its result would be called."""
    Image.fromarray(photo).save(tmp_path / "a.png")
    labels = (numpy.arange(48 * 64).reshape(48, 64) // 1000).astype("uint8")
    Image.fromarray(labels).save(tmp_path / "a_labels.png")
    return tmp_path


def test_crf_does_not_write_over_its_label_map(files: Path) -> None:
    before = (files / "a_labels.png").read_bytes()
    for out in (files, files / "." / "x" / ".."):
        (files / "x").mkdir(exist_ok=True)
        result = run("crf", files / "a.png", files / "a_labels.png", "-o", out)
        assert_refused(result, "a_labels.png")
    assert (files / "a_labels.png").read_bytes() == before
    assert not (files / "a_before_after.png").exists()


def test_crf_from_inside_the_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files)
    assert_refused(run("crf", "a.png", "a_labels.png", "-o", "."), "a_labels.png")


@pytest.mark.parametrize("link", ["symbolic", "hard", "folder"])
def test_crf_does_not_write_over_its_label_map_by_another_name(files: Path, link: str) -> None:
    out = files / "out"
    labels = files / "drawn.png"
    (files / "a_labels.png").rename(labels)
    try:
        if link == "folder":
            labels = files / "real" / "a_labels.png"
            labels.parent.mkdir()
            (files / "drawn.png").rename(labels)
            out.symlink_to(labels.parent, target_is_directory=True)
        else:
            out.mkdir()
            if link == "symbolic":
                (out / "a_labels.png").symlink_to(labels)
            else:
                os.link(labels, out / "a_labels.png")
    except OSError as error:
        pytest.skip(f"no links here: {error}")
    before = labels.read_bytes()
    result = run("crf", files / "a.png", labels, "-o", out)
    assert_refused(result, "drawn.png" if link != "folder" else "a_labels.png")
    assert labels.read_bytes() == before


def test_crf_does_not_write_over_its_photograph(files: Path) -> None:
    photo = files / "x_before_after.png"
    (files / "a.png").rename(photo)
    (files / "sub").mkdir()
    os.symlink(photo, files / "sub" / "x_before_after_before_after.png")
    result = run("crf", photo, files / "a_labels.png", "-o", files / "sub")
    assert_refused(result, "x_before_after.png")


def test_segment_leaves_out_an_image_whose_result_is_an_input(files: Path, weights: Path) -> None:
    before = (files / "a_labels.png").read_bytes()
    result = run("segment", files / "a.png", files / "a_labels.png", "-w", weights, "-o", files,
                 "--json")  # fmt: skip
    assert_refused(result, "a_labels.png")
    (entry,) = json.loads(result.stdout)["images"]
    assert entry["image"] == str(files / "a_labels.png")
    assert (files / "a_labels.png").read_bytes() == before


def test_segment_does_not_write_over_its_weights(files: Path, weights: Path) -> None:
    named = files / "a_overlay.png"
    named.write_bytes(weights.read_bytes())
    result = run("segment", files / "a.png", "-w", named, "-o", files)
    assert_refused(result, "a_overlay.png")
    assert named.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("second", ["a.jpg", "A.png", "A.JPG", "sub/a.png", "a.tif"])
def test_segment_inputs_of_one_name_have_results_of_two(
    photo: numpy.ndarray, weights: Path, tmp_path: Path, second: str
) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(photo).save(tmp_path / "a.png")
    Image.fromarray(photo).save(tmp_path / second)
    out = tmp_path / "out"
    result = run("segment", tmp_path / "a.png", tmp_path / second, "-w", weights, "-o", out)
    assert result.exit_code == 0, result.output
    names = sorted(path.name.casefold() for path in out.iterdir())
    assert names == ["a_2_labels.png", "a_2_overlay.png", "a_labels.png", "a_overlay.png"]


def test_segment_twice_into_the_folder_of_the_images(files: Path, weights: Path) -> None:
    (files / "a_labels.png").unlink()
    for _ in range(2):
        result = run("segment", files, "-w", weights, "-o", files, "--json")
        assert result.exit_code == 0, result.output
        (entry,) = json.loads(result.stdout)["images"]
        assert entry["image"] == str(files / "a.png")


def test_eval_does_not_write_over_its_data_or_weights(weights: Path, tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(numpy.zeros((20, 20, 3), "uint8")).save(tmp_path / "images" / "confusion.png")
    Image.fromarray(numpy.zeros((20, 20), "uint8")).save(tmp_path / "labels" / "confusion.png")
    Image.fromarray(numpy.zeros((20, 20, 3), "uint8")).save(tmp_path / "images" / "b.png")
    Image.fromarray(numpy.ones((20, 20), "uint8")).save(tmp_path / "labels" / "b.png")
    for folder in ("images", "labels"):
        before = (tmp_path / folder / "confusion.png").read_bytes()
        result = run("eval", tmp_path, "-w", weights, "-o", tmp_path / folder)
        assert_refused_after_the_first_lines(result, "confusion.png")
        assert (tmp_path / folder / "confusion.png").read_bytes() == before
        assert not (tmp_path / folder / "eval.json").exists()
    named = tmp_path / "out" / "eval.json"
    named.parent.mkdir()
    named.write_bytes(weights.read_bytes())
    result = run("eval", tmp_path, "-w", named, "-o", tmp_path / "out")
    assert_refused_after_the_first_lines(result, "eval.json")
    assert named.read_bytes() == weights.read_bytes()


def assert_refused_after_the_first_lines(result: Result, word: str) -> None:
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert word in errors[0]
    assert "choose another --out" in errors[0]


def test_train_does_not_write_over_its_initial_weights(weights: Path, tmp_path: Path) -> None:
    from tiny_data import make_dataset

    data = make_dataset(tmp_path / "data", {"train": 2, "val": 1})
    best = tmp_path / "out" / "best.pt"
    best.parent.mkdir()
    best.write_bytes(weights.read_bytes())
    result = run("train", data, "--init", best, "-o", tmp_path / "out", "--iterations", 1)
    assert_refused_after_the_first_lines(result, "best.pt")
    assert best.read_bytes() == weights.read_bytes()


def test_bench_report_does_not_draw_over_its_results(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text("{}")
    result = run("bench", "report", file, "--png", file)
    assert result.exit_code == 1
    assert file.read_text() == "{}"


def test_bench_knows_before_the_work_that_its_results_cannot_be_written(tmp_path: Path) -> None:
    assert_refused(run("bench", "run", "--out", tmp_path / "same.png"), "same.png")
    (tmp_path / "file").write_text("")
    for command in (("quick", "--out", tmp_path / "file"),
                    ("run", "--out", tmp_path / "file" / "a.json")):  # fmt: skip
        result = run("bench", *command)
        assert result.exit_code == 1
        assert "is no folder" in result.stderr
        assert result.stderr.count("\n") == 1


def test_eval_does_not_write_over_a_label_map_of_classes(weights: Path, files: Path) -> None:
    (files / "images").mkdir()
    (files / "labels").mkdir()
    (files / "a.png").rename(files / "images" / "a.png")
    (files / "a_labels.png").rename(files / "labels" / "a.png")
    given = files / "out" / "eval.json"
    given.parent.mkdir()
    given.write_text('{"3": 2}')
    command = ("eval", files, "-w", weights, "-o", given.parent, "--label-map", given)
    assert_refused_after_the_first_lines(run(*command), "eval.json")
    assert given.read_text() == '{"3": 2}'


@pytest.mark.skipif(sys.platform != "linux", reason="limits of files are Linux's here")
@pytest.mark.parametrize("command", ["segment", "crf", "eval"])
def test_a_disk_that_is_full_is_one_line_and_damages_nothing(
    command: str, files: Path, weights: Path
) -> None:
    out = files / "out"
    out.mkdir()
    old = {name: f"old {name}".encode() for name in
           ("a_overlay.png", "a_labels.png", "a_before_after.png", "eval.json")}  # fmt: skip
    for name, content in old.items():
        (out / name).write_bytes(content)
    if command == "eval":
        for folder, name in (("images", "a.png"), ("labels", "a_labels.png")):
            (files / "data" / folder).mkdir(parents=True)
            (files / name).rename(files / "data" / folder / "a.png")
        words = ["eval", "data", "-w", str(weights)]
    elif command == "crf":
        words = ["crf", "a.png", "a_labels.png", "--iterations", "1"]
    else:
        words = ["segment", "a.png", "-w", str(weights), "--working-size", "65"]
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)); "
        f"import fastseg.cli.app as a; a.app({[*words, '-o', 'out']!r})"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], capture_output=True, text=True, cwd=files,
        check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "File too large" in errors[0]
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == old


def test_outputs_know_files_by_whatever_name(tmp_path: Path) -> None:
    file = tmp_path / "in" / "file.png"
    file.parent.mkdir()
    file.write_bytes(b"x")
    for inputs in ([file], [file.parent], [tmp_path / "in" / ".." / "in" / "file.png"]):
        outputs = Outputs(inputs)
        with pytest.raises(OutputError, match=r"file\.png: is read by this command"):
            outputs.claim(file)
        outputs.claim(tmp_path / "in" / "other.png")
    outputs = Outputs([])
    outputs.claim(tmp_path / "new" / "a.png")
    for again in ("new/a.png", "new/A.png", "new/../new/a.PNG"):
        with pytest.raises(OutputError, match="is the result of two inputs"):
            outputs.claim(tmp_path / again)
    outputs.claim(tmp_path / "new" / "\u00e4.png")
    with pytest.raises(OutputError):
        outputs.claim(tmp_path / "new" / "a\u0308.png")


def test_names_that_a_file_system_does_not_tell_apart(tmp_path: Path) -> None:
    for name in ("Cat.png", "cat.jpg", "\u00e4.png", "a\u0308.jpg", "cat_2.png"):
        Image.fromarray(numpy.zeros((2, 2, 3), "uint8")).save(tmp_path / name)
    sources, _ = find_images([tmp_path], without=tmp_path / "out")
    names = [str(source.name) for source in sources]
    assert len(names) == 5
    assert len({os.path.normcase(n).casefold() for n in names}) == 5


@pytest.mark.parametrize("where", ["images/train", "labels/val", "link"])
def test_train_does_not_write_among_its_images(tmp_path: Path, where: str) -> None:
    """curve.png would be an image without labels, for the next training."""
    dataset = make_dataset(tmp_path / "set", {"train": 2, "val": 1}, (24, 32))
    (dataset / "link").symlink_to(dataset / "images" / "train")
    result = run("train", dataset, "-o", dataset / where, "--iterations", 1)
    assert_refused(result, "where the data set has images or label maps")
    assert not any(path.suffix == ".pt" for path in dataset.rglob("*"))
