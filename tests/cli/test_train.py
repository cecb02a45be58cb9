"""`fastseg train`, `fastseg eval` and `fastseg models`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from tiny_data import make_dataset
from typer.testing import CliRunner, Result

import fastseg
from fastseg import PSPNet
from fastseg.cli.app import app
from fastseg.engine.architectures import load_model
from fastseg.models import SegmentationModel

SMALL = (
    "--working-size", 64, "--crop", 48, 48, "--batch-size", 2, "--warmup", 1, "--ema", 0.5,
    "--iterations", 4, "--validate-every", 2, "--model", "pspnet",
)  # fmt: skip


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "160"})


def assert_one_error(result: Result, *words: str, others: int = 0) -> None:
    """The last line of stderr is the only error; `others` are the lines before."""
    assert result.exit_code == 1, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 + others, lines
    for word in ("error: ", *words):
        assert word in lines[-1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), {"train": 4, "val": 2})


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    result = run("train", dataset, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    assert "done; best validation mIoU" in result.stdout
    lines = result.stderr.strip().splitlines()
    assert lines[0].startswith(
        "layout folders: 4 train, 2 val; labels: numbers are classes; 3 classes "
        "(ground, box, sky), void 255, from "
    )
    assert "pixels of 6 label files: 0 " in lines[0]
    assert [line.split()[1] for line in lines[1:]] == ["2", "4"]
    return out


def test_train_writes_everything(trained: Path) -> None:
    names = {path.name for path in trained.iterdir()}
    assert {"best.pt", "last.pt", "metrics.json", "curve.png"} <= names
    model = load_model(trained / "best.pt")
    assert isinstance(model, PSPNet)
    assert model.classes.names == ("ground", "box", "sky")
    assert model.working_size == 64
    assert not model.training


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_load_checkpoint_reads_what_train_writes(trained: Path, name: str, tmp_path: Path) -> None:
    """From a file and from its content; the averaged weights, which are the validated ones."""
    state = torch.load(trained / name, weights_only=True)
    for source in (trained / name, state):
        model = fastseg.load_checkpoint(source)
        assert isinstance(model, PSPNet) and not model.training
        assert (model.classes.names, model.working_size) == (("ground", "box", "sky"), 64)
        for key, value in model.state_dict().items():
            assert torch.equal(value, (state["averaged"] or state["weights"])[key])
    torch.save({**state, "averaged": {}, "weights": {}}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt: does not fit pspnet; missing: "):
        fastseg.load_checkpoint(tmp_path / "other.pt")


def test_the_folder_is_a_pretrained_model(trained: Path) -> None:
    pytest.importorskip("safetensors")
    model, expected = (
        SegmentationModel.from_pretrained(trained / "model"),
        load_model(trained / "best.pt"),
    )
    assert (model.classes, model.working_size) == (expected.classes, expected.working_size)
    for key, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_an_existing_run_is_not_overwritten(dataset: Path, trained: Path) -> None:
    assert_one_error(run("train", dataset, "--out", trained, *SMALL), "last.pt exists", "--resume")
    result = run("train", dataset, "--out", trained, *SMALL, "--resume", "--lr", 0.5)
    assert_one_error(result, "the options of the run: --lr is 0.5, was 0.001")
    finished = run("train", dataset, "--out", trained, *SMALL, "--resume")
    assert finished.exit_code == 0, finished.output


def test_starting_from_weights(dataset: Path, trained: Path, tmp_path: Path) -> None:
    """The head of a model with other classes is left as it is, and that is said."""
    other = make_dataset(tmp_path / "set", {"train": 2})
    names = {"classes": ["a", "b", "c", "d"]}
    (other / "classes.json").write_text(json.dumps(names))
    out = tmp_path / "out"
    options = (
        *SMALL,
        "--init",
        trained / "best.pt",
        "--lr",
        1e-9,
        "--model-option",
        "activation=null",
    )
    result = run("train", other, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert "nothing is validated" in result.stderr
    assert "without 2 tensors, segmentation_head" in result.stderr
    assert not (out / "best.pt").exists()
    model, source = load_model(out / "last.pt"), load_model(trained / "best.pt")
    assert len(model.classes) == 4
    for key in ("encoder.features.0.0.weight", "decoder.conv.0.weight"):
        torch.testing.assert_close(model.state_dict()[key], source.state_dict()[key])


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_to_the_bit(dataset: Path, tmp_path: Path) -> None:
    """Killed as a program; then continued, and compared with a run without interruption, here."""
    arguments = ("train", dataset, *SMALL, "--iterations", 12, "--threads", 1)
    command = [sys.executable, "-m", "fastseg", *arguments, "--out", tmp_path / "cut"]
    cut = subprocess.Popen([str(a) for a in command], stderr=subprocess.PIPE, text=True)
    assert cut.stderr is not None
    while not cut.stderr.readline().startswith("iteration 2"):
        assert cut.poll() is None
    cut.send_signal(signal.SIGTERM)
    _, message = cut.communicate(timeout=60)
    assert cut.returncode == 128 + signal.SIGTERM
    assert "by SIGTERM after iteration" in message
    state = torch.load(tmp_path / "cut" / "last.pt", weights_only=True)
    assert 2 <= state["iteration"] < 12
    resumed = run(*arguments, "--out", tmp_path / "cut", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert f"continuing after iteration {state['iteration']}" in resumed.stderr
    assert run(*arguments, "--out", tmp_path / "whole").exit_code == 0
    a, b = (torch.load(tmp_path / n / "last.pt", weights_only=True) for n in ("whole", "cut"))
    for part in ("weights", "averaged"):
        assert all(torch.equal(a[part][key], b[part][key]) for key in a[part])
    assert a["history"]["losses"] == b["history"]["losses"]
    assert len(a["history"]["losses"]) == 12


def test_sums_of_losses(dataset: Path, tmp_path: Path) -> None:
    result = run("train", dataset, "--out", tmp_path / "out", *SMALL, "--loss", "ce+dice")
    assert result.exit_code == 0, result.output
    assert '"ce+dice"' in (tmp_path / "out" / "run.json").read_text()
    result = run("train", dataset, "--out", tmp_path / "other", *SMALL, "--loss", "ce+x")
    assert_one_error(result, "the names are ce, bce, dice", others=1)


def test_train_errors(dataset: Path, trained: Path, tmp_path: Path) -> None:
    def attempt(*options: object, data: Path = dataset) -> Result:
        return run("train", data, "--out", tmp_path / "out", *SMALL, *options)

    assert_one_error(attempt(data=tmp_path / "none"), "none: no such folder")
    assert_one_error(attempt(data=dataset / "images"), "labels/")
    assert_one_error(attempt("--out", dataset / "classes.json"), "--out", "is no folder")
    assert_one_error(attempt("--train-split", "x"), "no split 'x', but train, val")
    assert_one_error(attempt("--epochs", 3), "--epochs or --iterations")
    result = run("train", dataset, "--out", tmp_path / "out", "--epochs", -1)
    assert_one_error(result, "--epochs is -1")
    assert_one_error(attempt("--iterations", 0), "iterations is 0", others=1)
    assert_one_error(attempt("--lr", "nan"), "lr is nan", others=1)
    assert_one_error(attempt("--time-limit", 0), "--time-limit is 0 minutes")
    assert_one_error(attempt("--void", "x"), "--void is 'x', expected a number or none")
    assert_one_error(attempt("--model", "unet3"), "unet3", "deeplabv3plus", others=1)
    assert_one_error(attempt("--encoder", "vgg"), "vgg", "mobilenet_v2", others=1)
    assert_one_error(attempt("--model-option", "x"), "NAME=VALUE", others=1)
    assert_one_error(attempt("--model-option", "colour=1"), "colour", others=1)
    assert_one_error(attempt("--class-weights", "x"), "class_weights", others=1)
    assert_one_error(attempt("--init", tmp_path / "none.pt"), "none.pt: No such file", others=1)
    assert_one_error(attempt("--accumulate", 3), "batch of 2", others=1)
    assert_one_error(attempt("--device", "tpu"), "--device is 'tpu'")
    assert_one_error(
        attempt("--batch-size", 1, "--model", "deeplabv3plus"), "x holds one image", others=1
    )
    assert not (tmp_path / "out" / "best.pt").exists()


def test_broken_files_stop_before_training(dataset: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    image = data / "images" / "train" / "2.png"
    image.write_bytes(image.read_bytes()[:300])
    Image.fromarray(numpy.full((48, 64), 9, "uint8")).save(data / "labels" / "train" / "3.png")
    result = run("train", data, "--out", tmp_path / "out", *SMALL)
    assert_one_error(result, "images/train/2.png", "and 1 more")
    image.unlink()
    (data / "labels" / "train" / "2.png").unlink()
    result = run("train", data, "--out", tmp_path / "out", *SMALL)
    assert_one_error(result, "labels/train/3.png", "label 9", "0 to 2", "classes.json")


def test_eval(dataset: Path, trained: Path, tmp_path: Path) -> None:
    result = run("eval", dataset, "--weights", trained / "best.pt", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    for word in ("mIoU", "mAcc", "aAcc", "ground", "box", "sky", "Dice", "ms per image"):
        assert word in result.stdout
    data = json.loads((tmp_path / "eval.json").read_text())
    assert (tmp_path / "confusion.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((trained / "metrics.json").read_text())
    assert data["mIoU"] == pytest.approx(metrics["best_mIoU"])
    assert sum(map(sum, data["confusion"])) + sum(data["void"]) == 2 * 48 * 64
    assert data["mIoU_void_as_false_positive"] <= data["mIoU"]
    folder = run("eval", dataset, "-w", trained / "model", "--json", "--split", "val")
    assert folder.exit_code == 0, folder.output
    assert json.loads(folder.stdout)["confusion"] == data["confusion"]


def test_eval_takes_the_model_s_classes_where_the_data_set_names_none(
    trained: Path, tmp_path: Path
) -> None:
    data = make_dataset(tmp_path, {"val": 1}, names=False)
    result = run("eval", data, "-w", trained / "best.pt")
    assert result.exit_code == 0, result.output
    assert "sky" in result.stdout


def test_eval_errors(dataset: Path, trained: Path, weights: Path, tmp_path: Path) -> None:
    def attempt(path: Path, *options: object) -> Result:
        return run("eval", dataset, "-w", path, *options)

    assert_one_error(attempt(weights), "small.pth", "21 labels", "has 3", "classes.json")
    assert_one_error(attempt(tmp_path / "none.pt"), "none.pt: No such file")
    assert_one_error(attempt(trained / "best.pt", "--split", "test"), "'test', but train, val")
    cut = tmp_path / "cut.pt"
    for name in ("best.pt", "last.pt"):
        data = (trained / name).read_bytes()
        cut.write_bytes(data[: len(data) // 2])
        assert_one_error(attempt(cut), "cut.pt: truncated, damaged")
    assert_one_error(attempt(tmp_path), str(tmp_path))
    (tmp_path / "file").write_text("")
    assert_one_error(attempt(trained / "best.pt", "--out", tmp_path / "file"), "is no folder")


def test_models() -> None:
    result = run("models")
    assert result.exit_code == 0, result.output
    for word in ("deeplabv3plus", "pspnet", "mobilenet_v2", "resnet101", "tf-deeplab"):
        assert word in result.stdout
    rows = json.loads(run("models", "--json").stdout)["models"]
    sizes = {(row["model"], row["encoder"]): row["parameters"] for row in rows}
    assert round(sizes["deeplabv3plus", "resnet34"] / 1e6, 2) == 22.44  # smp's, with 19 classes


def test_help_names_the_commands() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for word in ("train", "eval", "models"):
        assert word in result.stdout
