"""Models of one class give two labels, in every command and in everything that is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from fastseg.classes import ClassSet, label_classes, numbered_classes
from fastseg.cli.app import app
from fastseg.inference import predict_tiled
from fastseg.models import DeepLabV3, DeepLabV3Plus, PSPNet, SegmentationModel

SIZE = 64  # at which the networks see the photograph, to be quick
MODELS = {"pspnet": PSPNet, "deeplabv3": DeepLabV3, "deeplabv3plus": DeepLabV3Plus}
ROAD = ClassSet(("road",), ((0, 0, 200),), ((10, 20, 230),))


def run(*arguments: object) -> Result:
    size = () if arguments[0] == "crf" else ("--working-size", SIZE)
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, *size)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def make_model(name: str, classes: ClassSet | int = 1) -> SegmentationModel:
    """With random weights, balanced so that a photograph has both labels."""
    torch.manual_seed(1)
    model = MODELS[name]("resnet18", encoder_weights=None, classes=classes).eval()
    with torch.no_grad():
        x = model.preprocess(photograph())
        logits = model.coarse_logits(x)
        last = [m for m in model.modules() if isinstance(m, nn.Conv2d)][-1]
        last.bias -= logits.mean((0, 2, 3))
    return model


def photograph() -> numpy.ndarray:
    return numpy.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=numpy.uint8)


@pytest.fixture
def photo_path(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photograph()).save(path)
    return path


@pytest.mark.parametrize(
    ("name", "crf"), [*((name, None) for name in MODELS), ("pspnet", "pydensecrf")]
)
def test_segment_writes_two_labels(
    name: str, crf: str | None, photo_path: Path, tmp_path: Path
) -> None:
    model = make_model(name)
    model.save_pretrained(tmp_path / "model")
    options = () if crf is None else ("--crf", crf)
    out = tmp_path / "out"
    result = run("segment", photo_path, "-w", tmp_path / "model", "-o", out, "--json", *options)
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(result.stdout)["images"]
    assert {c["name"] for c in entry["classes"]} <= {"background", "foreground"}
    assert sum(c["pixels"] for c in entry["classes"]) == 48 * 64
    with Image.open(entry["labels"]) as image:
        labels = numpy.asarray(image)
        assert image.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    if crf is None:
        assert set(numpy.unique(labels)) == {0, 1}
    else:
        assert Path(entry["before_after"]).is_file()
    assert numpy.array_equal(labels == 1, _segmented(model, crf) == 1)
    text = run("segment", photo_path, "-w", tmp_path / "model", "-o", out, *options)
    assert "background" in text.stdout or "foreground" in text.stdout


def _segmented(model: SegmentationModel, preset: str | None) -> numpy.ndarray:
    from fastseg.crf import DenseCRF

    crf = None if preset is None else DenseCRF.preset(preset, 2)
    return model.segment(photograph(), SIZE, crf).numpy()


def test_segment_names_the_only_class(photo_path: Path, tmp_path: Path) -> None:
    make_model("pspnet", ROAD).save_pretrained(tmp_path / "model")
    result = run("segment", photo_path, "-w", tmp_path / "model", "-o", tmp_path, "--json")
    (entry,) = json.loads(result.stdout)["images"]
    names = {c["index"]: c["name"] for c in entry["classes"]}
    assert names == {0: "background", 1: "road"}


def test_segment_takes_the_checkpoint_of_a_binary_model(photo_path: Path, tmp_path: Path) -> None:
    torch.save(make_model("deeplabv3plus").state_dict(), tmp_path / "binary.pth")
    result = run("segment", photo_path, "-w", tmp_path / "binary.pth", "-o", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    (entry,) = json.loads(result.stdout)["images"]
    assert {c["index"] for c in entry["classes"]} == {0, 1}


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    """Two images with the labels that the model of `make_model` gives, 0 and 1, and the inverse."""
    model = make_model("pspnet")
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    labels = model.segment(photograph(), SIZE).numpy()
    for name, label in (("right", labels), ("wrong", 1 - labels)):
        Image.fromarray(photograph()).save(tmp_path / "data" / "images" / f"{name}.png")
        Image.fromarray(label).save(tmp_path / "data" / "labels" / f"{name}.png")
    return tmp_path / "data"


def test_eval_scores_two_labels(data_set: Path, tmp_path: Path) -> None:
    make_model("pspnet", ROAD).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    result = run("eval", data_set, "-w", tmp_path / "model", "-o", out, "--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [c["name"] for c in content["classes"]] == ["background", "road"]
    matrix = numpy.array(content["confusion"])
    assert matrix.shape == (2, 2)
    # Each pixel is once right and once wrong.
    assert matrix[0, 0] == matrix[1, 0]
    assert matrix[1, 1] == matrix[0, 1]
    assert content["aAcc"] == pytest.approx(0.5)
    assert (out / "confusion.png").is_file()
    assert "road" in run("eval", data_set, "-w", tmp_path / "model").stdout


@pytest.mark.parametrize("logits", [False, True])
def test_crf_takes_the_scores_of_one_class(photo_path: Path, tmp_path: Path, logits: bool) -> None:
    rng = numpy.random.default_rng(0)
    z = rng.normal(size=(1, 12, 16)).astype("float32")
    one = z if logits else 1 / (1 + numpy.exp(-z))
    two = numpy.concatenate([0 * z, z]) if logits else numpy.concatenate([1 - one, one])
    found = {}
    for name, scores in (("one", one), ("two", two)):
        numpy.save(tmp_path / f"{name}.npy", scores)
        options = ("--logits",) if logits else ()
        result = run("crf", photo_path, tmp_path / f"{name}.npy", "-o", tmp_path / name, *options)
        assert result.exit_code == 0, result.stderr
        with Image.open(tmp_path / name / "photo_labels.png") as image:
            found[name] = numpy.asarray(image)
    assert set(numpy.unique(found["one"])) <= {0, 1}
    assert numpy.array_equal(found["one"], found["two"])


@pytest.mark.parametrize("exact", [False, True])
def test_predict_tiled_gives_two_labels(exact: bool) -> None:
    model = make_model("deeplabv3")
    labels = predict_tiled(model, photograph(), tile=512, exact=exact)
    assert set(numpy.unique(labels)) == {0, 1}


# A head of another number of outputs than the model has names for.


@pytest.mark.parametrize("outputs", [1, 2, 5, 300])
def test_a_replaced_head_has_numbered_labels(outputs: int) -> None:
    model = make_model("pspnet", 3)
    head = model.segmentation_head
    place = next(name for name, m in head.named_modules() if isinstance(m, nn.Conv2d))
    old = head.get_submodule(place)
    replaced = nn.Conv2d(old.in_channels, outputs, old.kernel_size, padding=old.padding)
    if "." in place:
        parent, _, name = place.rpartition(".")
        setattr(head.get_submodule(parent), name, replaced)
    else:
        setattr(head, place, replaced)
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    classes = model.label_classes()
    assert classes.names == numbered_classes(max(outputs, 2)).names
    assert all(module.training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    labels = predict_tiled(model.eval(), photograph(), tile=512)
    assert labels.dtype == (numpy.uint8 if outputs <= 256 else numpy.int32)


def test_label_classes() -> None:
    three = numbered_classes(3)
    assert label_classes(three, 3) is three
    assert label_classes(three, 7) == numbered_classes(7)
    assert label_classes(ROAD, 1).names == label_classes(ROAD, 2).names == ("background", "road")
    assert label_classes(ROAD, 1).colors == ((0, 0, 0), (0, 0, 200))
    assert label_classes(ROAD, 1).background == 0
    named = ClassSet(("no", "yes"), ((1, 1, 1), (2, 2, 2)), ((1, 1, 1), (2, 2, 2)))
    assert label_classes(named, 1) is named
    assert label_classes(numbered_classes(1), 1).names == ("background", "foreground")
    assert len(set(label_classes(numbered_classes(1), 1).colors)) == 2
