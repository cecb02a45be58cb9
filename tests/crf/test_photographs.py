"""Photographs (which stay outside of this repository) with the settings of pydensecrf's example:
against what pydensecrf gave, and both against float64 on the same lattice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import fastseg.crf.densecrf as dcrf
from fastseg.crf import utils
from fastseg.ops.permutohedral_filter import Lattice, reference
from fastseg.testing import relative_error

STEPS = (1, 5, 10)
NORMALIZATIONS = ("none", "before", "after", "symmetric")


@dataclasses.dataclass(frozen=True)
class Photograph:
    """A recorded case. In float64, on the lattices of float32: truths, Q after STEPS [L, P], and
    divergences, klDivergence after 0..10 steps."""

    data: Any
    count: int
    unary: numpy.ndarray
    lattices: dict[str, Lattice]
    truths: dict[int, torch.Tensor]
    divergences: list[float]


@pytest.fixture(scope="module", params=["im1", "im3"])
def photograph(request: pytest.FixtureRequest, shared_data: Path) -> Photograph:
    data = numpy.load(shared_data / "crf" / f"real_{request.param}.npz")
    count = data["Q5"].shape[0]
    unary = utils.unary_from_labels(data["labels"], count, gt_prob=0.7)
    lattices = {name: Lattice(f) for name, f in features_of(data["rgb"]).items()}
    return Photograph(data, count, unary, lattices, *mean_field(unary, lattices))


def features_of(rgb: numpy.ndarray) -> dict[str, torch.Tensor]:
    """In float32, each by one division."""
    height, width = rgb.shape[:2]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y]).reshape(2, -1).float()
    color = torch.from_numpy(rgb).permute(2, 0, 1).reshape(3, -1).float()
    return {"gauss": place / 3, "bilateral": torch.cat([place / 80, color / 13])}


def filtered(lattice: Lattice, values: torch.Tensor, transpose: bool = False) -> torch.Tensor:
    """values [L, P] in float64, on a lattice of float32."""
    tables = lattice.tables()
    tables = tables._replace(weights=tables.weights.double())
    return reference.filter_one(values, tables, transpose)


def scales(lattice: Lattice, normalization: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of input and output, in float64."""
    ones = torch.ones(1, lattice.num_pixels, dtype=torch.float64)
    if normalization == "none":
        return ones, ones
    norm = filtered(lattice, ones) + 1e-20
    if normalization == "symmetric":
        return norm.rsqrt(), norm.rsqrt()
    return (1 / norm, ones) if normalization == "before" else (ones, 1 / norm)


def mean_field(
    unary: numpy.ndarray, lattices: dict[str, Lattice]
) -> tuple[dict[int, torch.Tensor], list[float]]:
    """Potts terms of 3 and 10, symmetric: (truths, divergences) of a Photograph."""
    logits = -torch.from_numpy(unary).double()
    roots = {name: scales(lattice, "symmetric")[0] for name, lattice in lattices.items()}
    q, truths, divergences = logits.softmax(0), {}, []
    for step in range(max(STEPS) + 1):
        if step in STEPS:
            truths[step] = q
        message = torch.zeros_like(q)
        for name, weight in (("gauss", 3), ("bilateral", 10)):
            message += weight * filtered(lattices[name], q * roots[name]) * roots[name]
        free = q * q.clamp_min(1e-20).log() - q * logits - q * message
        divergences.append(free.sum().item())
        q = (logits + message).softmax(0)
    return truths, divergences


def crf_2d(photograph: Photograph) -> dcrf.DenseCRF2D:
    height, width = photograph.data["labels"].shape
    crf = dcrf.DenseCRF2D(width, height, photograph.count)
    crf.setUnaryEnergy(photograph.unary)
    crf.addPairwiseGaussian(sxy=3, compat=3)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=photograph.data["rgb"], compat=10)
    return crf


def test_unaries(photograph: Photograph) -> None:
    numpy.testing.assert_allclose(photograph.unary, photograph.data["unary"], rtol=2e-7)


def test_probabilities_and_labels(photograph: Photograph) -> None:
    crf, data = crf_2d(photograph), photograph.data
    for steps in STEPS:
        q, theirs = crf.inference(steps), data[f"Q{steps}"]
        assert abs(q - theirs).max() < 1e-4
        assert abs(q - theirs).mean() < 1e-6
        best = photograph.truths[steps].topk(2, 0).values
        clear = (best[0] - best[1] > 1e-4).numpy()
        assert clear.mean() > 0.999
        assert (q.argmax(0) == theirs.argmax(0))[clear].all()
    labels = crf.map(5)
    assert (labels == crf.inference(5).argmax(0)).all()
    best = photograph.truths[5].topk(2, 0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    assert (labels == data["map5"].reshape(-1))[clear].all()


def test_rounding(photograph: Photograph) -> None:
    """Ours and pydensecrf's own distance to float64 on the same lattice."""
    crf = crf_2d(photograph)
    for steps in STEPS:
        truth = photograph.truths[steps]
        ours, theirs = (
            torch.from_numpy(q) for q in (crf.inference(steps), photograph.data[f"Q{steps}"])
        )
        for name, q in (("ours", ours), ("pydensecrf", theirs)):
            largest, relative = (q - truth).abs().max().item(), relative_error(q, truth)
            print(f"{steps} steps, {name}: at most {largest:.1e}, relative {relative:.1e}")
        assert relative_error(ours, truth) <= 2 * relative_error(theirs, truth)
        assert (ours - truth).abs().max() <= max(2 * (theirs - truth).abs().max(), 1e-5)


def test_divergence(photograph: Photograph) -> None:
    """pydensecrf adds up in float32: it is off by up to 2e-5 itself."""
    crf = crf_2d(photograph)
    q, tmp1, tmp2 = crf.startInference()
    divergences = [crf.klDivergence(q)]
    for _ in range(10):
        crf.stepInference(q, tmp1, tmp2)
        divergences.append(crf.klDivergence(q))
    assert divergences == pytest.approx(photograph.divergences, rel=1e-6)
    assert divergences == pytest.approx(photograph.data["kl"].tolist(), rel=4e-5)


def test_helpers_for_any_number_of_dimensions(photograph: Photograph) -> None:
    """Features in the order y, x, r, g, b: another lattice, other numbers than DenseCRF2D's."""
    data = photograph.data
    shape = data["labels"].shape
    crf = dcrf.DenseCRF(shape[0] * shape[1], photograph.count)
    crf.setUnaryEnergy(photograph.unary)
    crf.addPairwiseEnergy(utils.create_pairwise_gaussian((3, 3), shape), compat=3)
    bilateral = utils.create_pairwise_bilateral((80, 80), (13, 13, 13), data["rgb"], chdim=2)
    crf.addPairwiseEnergy(bilateral, compat=10)
    q, theirs = crf.inference(5), data["Q5_nd"]
    assert abs(q - theirs).max() < 1e-4
    assert abs(q - theirs).mean() < 1e-6


@pytest.mark.parametrize("kernel", ["gauss", "bilateral"])
def test_filters_of_all_normalizations(photograph: Photograph, kernel: str) -> None:
    """Forward and transposed, against float64 on the same lattice."""
    lattice = photograph.lattices[kernel]
    q = -torch.from_numpy(photograph.unary).double()
    q = q.softmax(0)
    for normalization in NORMALIZATIONS:
        truths = scales(lattice, normalization)
        ours = [1.0 if s is None else s for s in lattice.scales(normalization)]
        for transpose in (False, True):
            first, last = (1, 0) if transpose else (0, 1)
            truth = filtered(lattice, q * truths[first], transpose) * truths[last]
            result = lattice.filter((q.float() * ours[first])[None], transpose)[0] * ours[last]
            assert (result - truth).abs().max() <= 2e-6 * truth.abs().max(), normalization
