"""U2-Net: the small form's real weights, and sizes of both forms."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy
import pytest
import torch

import fastseg
from fastseg.models import U2Net

FOLDER = Path(os.environ.get("FASTSEG_SHARED", "shared")) / "data" / "u2netp"


@pytest.fixture(scope="module")
def salient() -> U2Net:
    path = FOLDER / "u2netp_320_salient.pth"
    if not path.is_file():
        pytest.skip("FASTSEG_SHARED names no folder with data/u2netp")
    return fastseg.load_checkpoint(path)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_recorded_probabilities(salient: U2Net, index: int, layout: torch.memory_format) -> None:
    """Those of onnxruntime, in float32: they are 5e-5 from float64's, ours at most twice as far."""
    recorded = numpy.load(FOLDER / "u2netp_golden.npz")
    image = recorded[f"image_{index}"].astype(numpy.float64)
    image = (image / image.max() - salient.mean) / salient.std
    x = torch.from_numpy(image.astype(numpy.float32)).permute(2, 0, 1)[None]
    exact = copy.deepcopy(salient).double()
    with torch.no_grad():
        probabilities = salient(x.contiguous(memory_format=layout)).sigmoid()[0, 0].numpy()
        truth = exact(x.double()).sigmoid()[0, 0].numpy()
    expected = recorded[f"prob_{index}"]
    error = abs(expected - truth).max()
    assert error <= 6e-5
    assert abs(probabilities - truth).max() <= 2 * error
    assert abs(probabilities - expected).mean() <= 4e-6
    labels = salient.predict_labels(x)[0].numpy()
    clear = abs(expected - 0.5) > 1e-4
    assert ((labels == 1) == (expected > 0.5))[clear].all() and 0.02 < labels.mean() < 0.98


def test_a_photograph_is_segmented(salient: U2Net) -> None:
    recorded = numpy.load(FOLDER / "u2netp_golden.npz")
    image = recorded["image_0"]
    labels = salient.segment(image).numpy()
    truth = recorded["prob_0"] > 0.5
    assert labels.shape == image.shape[:2]
    assert (labels & truth).sum() / (labels | truth).sum() > 0.95


def test_parameters_of_both_forms() -> None:
    """44.01 and 1.13 million, as published (without the batch norms' statistics)."""
    with torch.device("meta"):
        models = U2Net(), U2Net.small()
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    assert [round(count / 1e6, 2) for count in counts] == [44.01, 1.13]


def test_arguments_out_of_range() -> None:
    with pytest.raises(ValueError, match="channels has 3 numbers, expected 11"):
        U2Net(channels=(1, 2, 3))
