"""The layer fastseg.crf.DenseCRF: wrong settings and inputs are refused."""

from __future__ import annotations

import pytest
import torch

from fastseg.crf import BilateralKernel, DenseCRF, FeatureKernel, GaussianKernel

METHODS = ("lattice", "exact", "window")
NAN, INF = float("nan"), float("inf")


def _logits(value: float, everywhere: bool = False) -> torch.Tensor:
    logits = torch.zeros(1, 2, 4, 5)
    logits[0, slice(None) if everywhere else 1, 2, 3] = value
    return logits


IMAGES = torch.zeros(1, 3, 4, 5)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (lambda: DenseCRF(0), "classes is 0"),
        (lambda: DenseCRF(2, iterations=-1), "iterations is -1"),
        (lambda: DenseCRF(2, method="fast"), "method is 'fast'"),
        (lambda: DenseCRF(2, radius=-1), "radius is -1"),
        (lambda: GaussianKernel(0.0), "widths are"),
        (lambda: GaussianKernel(-1.0), "widths are"),
        (lambda: BilateralKernel(80.0, NAN), "widths are"),
        (lambda: FeatureKernel([]), "widths are"),
        (lambda: GaussianKernel(3.0, INF), "weight is inf"),
        (lambda: GaussianKernel(normalization="both"), "normalization is 'both'"),
        (lambda: GaussianKernel(compatibility=torch.ones(2, 3)), "compatibility has shape"),
        (lambda: GaussianKernel(compatibility=[NAN, 1.0]), "compatibility has numbers"),
        (lambda: DenseCRF(2, [GaussianKernel(compatibility=[1.0] * 3)]), "expected 2 labels"),
        (lambda: DenseCRF.preset("best", 2), "preset is 'best'"),
    ],
)
def test_wrong_settings(what, match):
    with pytest.raises(ValueError, match=match):
        what()


@pytest.mark.parametrize(
    ("what", "match"),
    [
        (lambda: DenseCRF(2.5), "classes is 2.5"),
        (lambda: DenseCRF(2, iterations=1.0), "iterations is 1.0"),
        (lambda: DenseCRF(2, radius="5"), "radius is '5'"),
        (lambda: DenseCRF(2, GaussianKernel()), "kernels is a GaussianKernel"),
        (lambda: DenseCRF(2, [3]), r"kernels\[0\] is a int"),
        (lambda: GaussianKernel((3.0, 3.0)), "widths are"),
        (lambda: FeatureKernel(3.0), "widths are 3.0"),
        (lambda: DenseCRF(2)(_logits(0), IMAGES.numpy()), "images is a ndarray"),
        (lambda: DenseCRF(2)(_logits(0).numpy(), IMAGES), "logits is a ndarray"),
    ],
)
def test_wrong_types(what, match):
    with pytest.raises(TypeError, match=match):
        what()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"logits": _logits(NAN), "images": IMAGES}, r"logits has nan at \(0, 1, 2, 3\)"),
        ({"logits": _logits(INF), "images": IMAGES}, r"logits has inf at \(0, 1, 2, 3\)"),
        ({"unary": _logits(-INF), "images": IMAGES}, r"unary has -inf at \(0, 1, 2, 3\)"),
        ({"logits": _logits(-INF, True), "images": IMAGES}, r"every label of pixel \(2, 3\)"),
        ({"unary": _logits(INF, True), "images": IMAGES}, r"every label of pixel \(2, 3\)"),
        ({"images": IMAGES}, "exactly one of logits and unary"),
        ({"logits": _logits(0), "unary": _logits(0), "images": IMAGES}, "exactly one"),
        ({"logits": _logits(0)}, "images are missing"),
        ({"logits": _logits(0)[:, :1], "images": IMAGES}, "expected 2 labels"),
        ({"logits": _logits(0)[0], "images": IMAGES}, "expected 4 dimensions"),
        ({"logits": _logits(0), "images": IMAGES[0]}, "images has shape"),
        ({"logits": _logits(0), "images": IMAGES.expand(2, 3, 4, 5)}, "images has shape"),
        ({"logits": _logits(0), "images": IMAGES / 0}, r"images has nan at \(0, 0, 0, 0\)"),
        ({"logits": _logits(0), "images": IMAGES, "features": [IMAGES]}, "features has 1 tensors"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_wrong_inputs(arguments, match, method):
    with pytest.raises(ValueError, match=match):
        DenseCRF(2, method=method)(**arguments)


def test_wrong_features():
    crf = DenseCRF(2, [FeatureKernel([1.0, 2.0])], method="exact")
    logits = torch.zeros(1, 2, 4, 5)
    with pytest.raises(ValueError, match="expected D = 2"):
        crf(logits, features=[torch.zeros(1, 3, 4, 5)])
    with pytest.raises(ValueError, match=r"features\[0\] has size \(4, 5\), expected \(8, 9\)"):
        crf(logits, torch.zeros(1, 3, 8, 9), features=[torch.zeros(1, 2, 4, 5)])
    with pytest.raises(TypeError, match="dtype"):
        crf(logits.long(), features=[torch.zeros(1, 2, 4, 5)])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["weight", "log_scales"])
def test_parameters_that_diverged(method, name):
    crf = DenseCRF(2, method=method)
    crf.kernels[0].get_parameter(name).data.fill_(NAN)
    with pytest.raises(ValueError, match="finite"):
        crf(_logits(0), IMAGES)
