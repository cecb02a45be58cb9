"""A small checkpoint and small photographs, made anew: the command line needs no data of ours."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

pytest.importorskip("typer")
pytest.importorskip("rich")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights for 21 classes, spread enough that several classes win somewhere."""
    from fastseg.models import TFDeepLabMobileNetV2

    torch.manual_seed(3)
    model = TFDeepLabMobileNetV2(stem=8, widths=17 * (8,), head=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0.0, 2.0 / parameter[0].numel() ** 0.5)
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(model.state_dict(), path)
    return path


@pytest.fixture
def photo() -> numpy.ndarray:
    """RGB uint8 [48, 64, 3] with a bright corner, so that turns and flips show."""
    values = numpy.random.default_rng(0).integers(0, 120, (48, 64, 3), dtype=numpy.uint8)
    values[:16, :24] += 130
    return values


@pytest.fixture
def photo_file(photo: numpy.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    return path
