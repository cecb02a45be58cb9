"""fastseg.crf.densecrf and .utils against what pydensecrf gave (tests/crf/recorded)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import fastseg.crf.densecrf as dcrf
from fastseg.crf import utils

RECORDED = Path(__file__).parent / "recorded"
NORMALIZATIONS = {
    "no": dcrf.NO_NORMALIZATION,
    "before": dcrf.NORMALIZE_BEFORE,
    "after": dcrf.NORMALIZE_AFTER,
    "symmetric": dcrf.NORMALIZE_SYMMETRIC,
}
KINDS = ["potts_symmetric", "potts_before", "potts_after", "potts_no"]
KINDS += ["diag_symmetric", "matrix_symmetric"]
GRADIENTS = [f"{compat}_{norm}" for compat in ("potts", "matrix") for norm in NORMALIZATIONS]
CASES = ["rand_a_24x31x5", "rand_d_19x22x2"]

each_kind = pytest.mark.parametrize("kind", KINDS)
each_case = pytest.mark.parametrize("case", CASES)


def recorded(case: str) -> Any:
    return numpy.load(RECORDED / f"{case}.npz")


def crf_2d(data: Any, kind: str) -> dcrf.DenseCRF2D:
    compat, norm = kind.split("_")
    p = json.loads(str(data["params"]))
    gauss, bilateral = (data[f"compat_{compat}_{k}"] for k in ("gauss", "bil"))
    if compat == "potts":
        gauss, bilateral = gauss.item(), bilateral.item()
    crf = dcrf.DenseCRF2D(p["w"], p["h"], p["L"])
    crf.setUnaryEnergy(data["unary"])
    crf.addPairwiseGaussian(sxy=p["sxy_gauss"], compat=gauss, normalization=NORMALIZATIONS[norm])
    crf.addPairwiseBilateral(
        sxy=p["sxy_bil"],
        srgb=p["srgb"],
        rgbim=data["rgb"],
        compat=bilateral,
        normalization=NORMALIZATIONS[norm],
    )
    return crf


@each_kind
@each_case
def test_probabilities(case: str, kind: str) -> None:
    data = recorded(case)
    crf = crf_2d(data, kind)
    for steps in (1, 5, 10):
        if f"Q{steps}_{kind}" not in data:
            continue
        q, theirs = crf.inference(steps), data[f"Q{steps}_{kind}"]
        assert q.dtype == numpy.float32 and q.shape == theirs.shape
        assert abs(q - theirs).max() < (5e-4 if "_no" in kind else 2e-5)
        assert abs(q - theirs).mean() < 1e-6
        assert (q.argmax(0) == theirs.argmax(0)).all()


@each_kind
@each_case
def test_rounding(case: str, kind: str) -> None:
    """Against float64 on the same lattice. pydensecrf's own distance: up to 6e-6, norm 1e-6."""
    data = recorded(case)
    if f"lat64_Q5_{kind}" not in data:
        pytest.skip("not recorded")
    truth = data[f"lat64_Q5_{kind}"]
    difference = crf_2d(data, kind).inference(5) - truth
    assert abs(difference).max() < 1e-5
    assert numpy.linalg.norm(difference) < 2e-6 * numpy.linalg.norm(truth)


@each_kind
@each_case
def test_steps_and_divergence(case: str, kind: str) -> None:
    data = recorded(case)
    crf = crf_2d(data, kind)
    q, tmp1, tmp2 = crf.startInference()
    divergences = [crf.klDivergence(q)]
    for _ in range(10):
        assert crf.stepInference(q, tmp1, tmp2) is None
        divergences.append(crf.klDivergence(q))
    assert divergences == pytest.approx(data[f"kl_{kind}"], rel=3e-6)
    assert abs(q - crf.inference(10)).max() < (5e-4 if "_no" in kind else 2e-5)


class LogLikelihood:
    """The mean over all pixels of log Q of the known labels, as it was recorded."""

    def __init__(self, labels: numpy.ndarray) -> None:
        self.pixels = torch.from_numpy(numpy.flatnonzero(labels >= 0))
        self.labels = torch.from_numpy(labels[labels >= 0].astype("int64"))
        self.count = len(labels)

    def __call__(self, q: torch.Tensor) -> torch.Tensor:
        return (q[self.labels, self.pixels] + 1e-20).log().sum() / self.count


@pytest.mark.parametrize("kind", GRADIENTS)
@each_case
def test_gradients(case: str, kind: str) -> None:
    data = recorded(case)
    crf = crf_2d(data, kind)
    gradient = crf.gradient(5, LogLikelihood(data["grad_gt"]))
    value = float(data[f"grad5_value_{kind}"])
    assert gradient.value == pytest.approx(value, rel=2e-3 if kind.endswith("_no") else 5e-6)
    for name in ("unary", "compat"):
        # Without normalisation Q is 0 or 1 nearly everywhere, and its gradient rounding.
        if f"grad5_{name}_{kind}" not in data or kind.endswith("_no"):
            continue
        theirs = data[f"grad5_{name}_{kind}"]
        ours = gradient.unary if name == "unary" else gradient.compatibility
        assert abs(ours - theirs).max() <= 5e-6 * abs(theirs).max()
    assert gradient.kernel.shape == (7,)  # x, y and x, y, r, g, b


@each_case
def test_kernel_gradient_differs_from_the_recorded_one(case: str) -> None:
    """pydensecrf swaps the order of the blur's axes there: its numbers are those of the transposed
    filter. (That ours are right, the gradient tests of permutohedral_filter show.)"""
    data = recorded(case)
    crf = crf_2d(data, "potts_symmetric")
    ours = crf.gradient(5, LogLikelihood(data["grad_gt"])).kernel
    theirs = data["grad5_kernel_potts_symmetric"]
    assert 0.01 < abs(ours - theirs).max() / abs(ours).max()


@pytest.mark.parametrize("name", ["bil1", "bil2"])
def test_volumes(name: str) -> None:
    """Three dimensions, one and two channels; features by our helpers."""
    data = recorded("nd_7x9x11")
    volume = data["vol"] if name == "bil1" else data["vol2"]
    schan, chdim = ((25.0,), -1) if name == "bil1" else ((25.0, 10.0), 0)
    gaussian = utils.create_pairwise_gaussian(sdims=(1.5, 2, 2.5), shape=(7, 9, 11))
    bilateral = utils.create_pairwise_bilateral((3, 4, 5), schan, volume, chdim)
    assert numpy.array_equal(gaussian, data["feat_gauss"])
    assert numpy.array_equal(bilateral, data[f"feat_{name}"])
    crf = dcrf.DenseCRF(7 * 9 * 11, 4)
    crf.setUnaryEnergy(data["unary"])
    crf.addPairwiseEnergy(gaussian, compat=2, kernel=dcrf.DIAG_KERNEL)
    crf.addPairwiseEnergy(bilateral, compat=5, kernel=dcrf.FULL_KERNEL)
    for steps in (1, 5, 10):
        q, theirs = crf.inference(steps), data[f"Q{steps}_{name}"]
        assert abs(q - theirs).max() < 2e-5
        assert (q.argmax(0) == theirs.argmax(0)).all()


def test_unary_helpers() -> None:
    data = recorded("nd_7x9x11")
    labels, softmax = data["uf_labels"], data["uf_softmax"]
    for ours, name in (
        (utils.unary_from_labels(labels, 3, 0.7), "unary_from_labels_zero_unsure"),
        (utils.unary_from_labels(labels, 4, 0.7, zero_unsure=False), "unary_from_labels_all"),
        (utils.unary_from_softmax(softmax), "unary_from_softmax"),
        (utils.unary_from_softmax(softmax, scale=0.9), "unary_from_softmax_scale09"),
        (utils.unary_from_softmax(softmax, clip=None), "unary_from_softmax_noclip"),
    ):
        assert ours.dtype == numpy.float32 and ours.flags.c_contiguous
        numpy.testing.assert_allclose(ours, data[name], rtol=2e-7, atol=1e-7)
