"""The model that ships: complete, small, and as good as its card says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch

pytest.importorskip("safetensors")

from safetensors import safe_open

from fastseg.classes import CAMVID
from fastseg.models import DeepLabV3Plus, default_model
from fastseg.models.default import FOLDER


@pytest.fixture(scope="module")
def model():
    return default_model()


def test_is_a_small_deeplab_of_street_scenes(model):
    assert isinstance(model, DeepLabV3Plus)
    assert not model.training
    assert model.classes == CAMVID
    assert next(model.parameters()).dtype is torch.float32
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 10e6
    with safe_open(FOLDER / "model.safetensors", "pt") as tensors:
        dtypes = {tensors.get_slice(key).get_dtype() for key in tensors.keys()}
    assert dtypes == {"F16", "I64"}  # I64: the batch norms' counters


def test_card_says_how_it_was_made_and_what_it_may_be_used_for():
    card = (FOLDER / "README.md").read_text()
    for words in ("make_default_model.sh", "non-commercial", "CamVid", "mIoU"):
        assert words in card


def test_any_photograph_has_labels(model):
    image = numpy.random.default_rng(0).integers(0, 256, (97, 131, 3), dtype=numpy.uint8)
    labels = model.segment(image)
    assert labels.shape == (97, 131)
    assert labels.max() < len(CAMVID)


@pytest.mark.slow
def test_reaches_the_recorded_score(shared_data: Path):
    """The whole test split, counted anew."""
    pytest.importorskip("PIL")
    typer_testing = pytest.importorskip("typer.testing")
    from fastseg.cli.app import app

    camvid = shared_data / "camvid"
    if not camvid.is_dir():
        pytest.skip(f"{camvid} is not there")
    arguments = ["eval", str(camvid), "--split", "test", "--json"]
    result = typer_testing.CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    measured = json.loads(result.stdout)
    recorded = json.loads((FOLDER / "metrics.json").read_text())
    assert measured["mIoU"] == pytest.approx(recorded["mIoU"], abs=0.001)
