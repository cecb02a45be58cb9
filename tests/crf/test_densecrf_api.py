"""fastseg.crf.densecrf and .utils: the interface and its edge cases."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy
import pytest
import torch
from small_crf import INF, NAN, crf, image, unary

import fastseg.crf
import fastseg.crf.densecrf as dcrf
from fastseg.crf import utils


def test_constants_are_pydensecrfs():
    assert [int(k) for k in dcrf.KernelType] == [0, 1, 2]
    assert [int(n) for n in dcrf.NormalizationType] == [0, 1, 2, 3]
    assert dcrf.FULL_KERNEL == 2 and dcrf.NORMALIZE_SYMMETRIC == 3


def test_the_two_classes_of_one_name():
    assert fastseg.crf.DenseCRF is not dcrf.DenseCRF
    assert fastseg.crf.DenseCRF2D is dcrf.DenseCRF2D


def test_width_comes_first():
    d = dcrf.DenseCRF2D(5, 4, 3)
    d.addPairwiseBilateral(80, 13, image(height=4, width=5), 10)
    with pytest.raises(ValueError, match=r"Need \(4, 5, 3\), got \(5, 4, 3\)"):
        d.addPairwiseBilateral(80, 13, image(height=5, width=4), 10)


def test_names_of_the_arguments():
    d = dcrf.DenseCRF2D(5, 4, nlabels=3)
    d.setUnaryEnergy(u=unary())
    d.addPairwiseGaussian(
        sxy=(3, 3),
        compat=3,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    d.addPairwiseBilateral(
        sxy=(80, 80),
        srgb=(13, 13, 13),
        rgbim=image(),
        compat=10,
        kernel=dcrf.DIAG_KERNEL,
        normalization=dcrf.NORMALIZE_SYMMETRIC,
    )
    assert numpy.array_equal(d.inference(n_iterations=5), crf().inference(5))
    e = dcrf.DenseCRF(nvar=20, nlabels=3)
    e.setUnaryEnergy(unary())
    features = numpy.stack([numpy.arange(20) % 5, numpy.arange(20) // 5]).astype("float32") / 3
    e.addPairwiseEnergy(features=features, compat=3, kernel=dcrf.CONST_KERNEL)
    f = dcrf.DenseCRF2D(5, 4, 3)
    f.setUnaryEnergy(unary())
    f.addPairwiseGaussian(3, 3, dcrf.FULL_KERNEL)
    assert numpy.array_equal(e.inference(5), f.inference(5))


def test_without_unary_and_without_terms():
    even = dcrf.DenseCRF2D(5, 4, 4).inference(3)
    assert (even == 0.25).all()
    d = dcrf.DenseCRF(20, 3)
    d.setUnaryEnergy(unary())
    q = d.inference(3)
    expected = numpy.exp(-unary()) / numpy.exp(-unary()).sum(0)
    assert abs(q - expected).max() < 1e-6
    assert numpy.array_equal(d.inference(0), q) and numpy.array_equal(d.inference(-1), q)


def test_steps_are_inference():
    d = crf()
    q, tmp1, tmp2 = d.startInference()
    assert abs(q - d.inference(0)).max() < 1e-6
    for _ in range(4):
        d.stepInference(q, tmp1, tmp2)
    assert abs(q - d.inference(4)).max() < 1e-6
    assert isinstance(d.klDivergence(q), float)
    assert (d.map(4) == q.argmax(0)).all()


def test_energies_are_copied():
    u = unary()
    d = crf(u=u)
    expected = d.inference(2).copy()
    u[:] = 7
    assert numpy.array_equal(d.inference(2), expected)


@pytest.mark.filterwarnings("error")
def test_arrays_of_other_layouts_and_precision():
    expected = crf().inference(2)
    locked = unary()
    locked.setflags(write=False)
    for u in (unary().astype("float64"), numpy.asfortranarray(unary()), unary().tolist(), locked):
        assert numpy.array_equal(crf(u=u).inference(2), expected)
    d = crf()
    read_only = image()
    read_only.setflags(write=False)
    from_bgr = numpy.ascontiguousarray(image()[..., ::-1])[..., ::-1]
    for picture in (read_only, numpy.asfortranarray(image()), from_bgr):
        other = dcrf.DenseCRF2D(5, 4, 3)
        other.setUnaryEnergy(unary())
        other.addPairwiseGaussian(3, 3)
        other.addPairwiseBilateral(80, 13, picture, 10)
        assert numpy.array_equal(other.inference(2), d.inference(2))


def test_signs_of_compatibilities():
    """A number w attracts: it is the vector and the matrix of -w. A matrix is symmetrised."""

    def q(compat: Any) -> numpy.ndarray:
        d = dcrf.DenseCRF2D(5, 4, 3)
        d.setUnaryEnergy(unary())
        d.addPairwiseGaussian(2, compat)
        return d.inference(3)

    weight = q(4)
    assert abs(q(numpy.full(3, -4.0)) - weight).max() < 1e-6
    assert abs(q(-4 * numpy.eye(3)) - weight).max() < 1e-6
    assert abs(q(dcrf.PottsCompatibility(4)) - weight).max() == 0
    assert abs(q(4 * (1 - numpy.eye(3))) - weight).max() < 1e-5
    lopsided = numpy.random.default_rng(0).random((3, 3)).astype("float32")
    assert abs(q(lopsided) - q((lopsided + lopsided.T) / 2)).max() < 1e-6
    assert abs(q(lopsided) - q(dcrf.MatrixCompatibility(lopsided))).max() == 0
    vector = dcrf.DiagonalCompatibility([1, -2, 0.5])
    assert abs(q(vector) - q(numpy.array([1, -2, 0.5]))).max() == 0


def test_infinite_energy_excludes_a_label():
    u = unary()
    u[1, :7] = INF
    d = crf(u=u)
    q = d.inference(5)
    assert numpy.isfinite(q).all() and (q[1, :7] < 1e-37).all()
    assert numpy.isfinite(d.klDivergence(q))


def test_logistic_unary():
    rng = numpy.random.default_rng(0)
    weights, features = rng.random((3, 2), "float32"), rng.random((2, 20), "float32")
    d = crf()
    d.setUnaryEnergy(weights, features)
    expected = crf(u=weights @ features).inference(3)
    assert abs(d.inference(3) - expected).max() < 1e-6
    gradient = d.gradient(2, lambda q: q[0].sum())
    assert gradient.unary.shape == (3, 2)
    # A step along the gradient raises the objective by its square, at first order.
    before = d.inference(2)[0].sum()
    d.setUnaryParameters(d.unaryParameters() + 1e-2 * gradient.unary)
    rise = d.inference(2)[0].sum() - before
    assert rise == pytest.approx(1e-2 * (gradient.unary**2).sum(), rel=0.05)


@pytest.mark.parametrize("compat", [3.0, numpy.arange(3.0), numpy.arange(9.0).reshape(3, 3)])
def test_gradient_of_compatibilities(compat: Any):
    d = dcrf.DenseCRF2D(5, 4, 3)
    d.setUnaryEnergy(unary())
    d.addPairwiseGaussian(2, compat)
    gradient = d.gradient(2, lambda q: q[0].sum()).compatibility
    start = d.labelCompatibilityParameters()
    assert gradient.shape == start.shape
    for i in range(len(start)):
        difference = 0.0
        for sign in (1, -1):
            moved = start.copy()
            moved[i] += sign * 1e-2
            d.setLabelCompatibilityParameters(moved)
            difference += sign * float(d.inference(2)[0].sum(dtype="float64"))
        assert gradient[i] == pytest.approx(difference / 2e-2, rel=1e-2, abs=1e-4)


def test_parameters_of_kernels():

    def three(width: float) -> dcrf.DenseCRF2D:
        d = dcrf.DenseCRF2D(5, 4, 3)
        d.setUnaryEnergy(unary())
        d.addPairwiseGaussian(width, 3, kernel=dcrf.DIAG_KERNEL)
        d.addPairwiseGaussian(2, 3, kernel=dcrf.FULL_KERNEL)
        d.addPairwiseGaussian(2, 3, kernel=dcrf.CONST_KERNEL)
        return d

    d = three(3)
    assert d.kernelParameters().tolist() == [1, 1, 1, 0, 0, 1]
    before = d.inference(3).copy()
    d.setKernelParameters([0.5, 0.5, 1, 0, 0, 1])
    assert abs(d.inference(3) - three(6).inference(3)).max() < 1e-6
    assert abs(d.inference(3) - before).max() > 1e-3
    for wrong in ([1.0], [0.5] * 7, [NAN] * 6):
        with pytest.raises(ValueError):
            d.setKernelParameters(wrong)


def test_helpers_by_hand():
    u = utils.unary_from_labels(numpy.array([[0, 1], [2, 2]]), 2, 0.75)
    expected = -numpy.log([[0.5, 0.75, 0.25, 0.25], [0.5, 0.25, 0.75, 0.75]])
    assert abs(u - expected).max() < 1e-6
    assert (utils.unary_from_labels([1, 1], 1, 0.7) == numpy.float32(-numpy.log(0.7))).all()
    gaussian = utils.create_pairwise_gaussian((2, 4), (2, 3))
    assert gaussian.tolist() == [[0, 0, 0, 0.5, 0.5, 0.5], [0, 0.25, 0.5, 0, 0.25, 0.5]]
    picture = numpy.arange(12, dtype=numpy.uint8).reshape(2, 3, 2)
    bilateral = utils.create_pairwise_bilateral((2, 4), (5, 10), picture, chdim=2)
    assert numpy.array_equal(bilateral[:2], gaussian)
    assert numpy.allclose(bilateral[2], numpy.arange(0, 12, 2) / 5)
    planes = picture.transpose(2, 0, 1)
    first = utils.create_pairwise_bilateral((2, 4), (5, 10), planes, chdim=0)
    from_the_end = utils.create_pairwise_bilateral((2, 4), (5, 10), planes, chdim=-3)
    assert (from_the_end == first).all()
    assert numpy.array_equal(first, bilateral)
    grey = utils.create_pairwise_bilateral((2, 4), 5, picture[..., 0])
    assert numpy.array_equal(grey, bilateral[:3])
    with pytest.warns(UserWarning, match="1 widths for 2 channels") as caught:
        short = utils.create_pairwise_bilateral((2, 4), (5,), picture, chdim=2)
    assert caught[0].filename == __file__  # the caller's line
    assert numpy.array_equal(short[3], picture[..., 1].ravel())
    with pytest.warns(DeprecationWarning, match="unary_from_labels"):
        old = utils.compute_unary(numpy.array([0, 1, 2]), 2)
    assert numpy.array_equal(old, utils.unary_from_labels([0, 1, 2], 2, 0.5))
    with pytest.warns(DeprecationWarning, match="unary_from_softmax"):
        old = utils.softmax_to_unary(numpy.array([[0.0], [1.0]]))
    assert old.tolist() == [[INF], [0]]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (3, 3)])
@pytest.mark.parametrize("labels", [1, 2, 3])
def test_smallest_cases(size: tuple[int, int], labels: int):
    width, height = size
    d = dcrf.DenseCRF2D(width, height, labels)
    d.setUnaryEnergy(unary(labels, width * height))
    d.addPairwiseGaussian(3, 3)
    d.addPairwiseBilateral(80, 13, numpy.full((height, width, 3), 7, numpy.uint8), 10)
    q = d.inference(5)
    assert numpy.isfinite(q).all() and abs(q.sum(0) - 1).max() < 1e-5
    if labels == 1:
        assert (q == 1).all()


@pytest.mark.parametrize("at", [0, 70_000, 140_006])
def test_energies_that_several_threads_copy(at: int) -> None:
    """What is not finite is found wherever it is, also in the last, shorter vector."""
    energies = numpy.random.default_rng(0).random((3, 46_669), dtype=numpy.float32)
    crf = dcrf.DenseCRF(46_669, 3)
    crf.setUnaryEnergy(energies)
    assert numpy.array_equal(crf.unaryParameters(), energies)
    energies.reshape(-1)[at] = numpy.inf  # excludes a label
    crf.setUnaryEnergy(energies)
    assert crf.inference(0).reshape(-1)[at] < 1e-37
    energies.reshape(-1)[at] = numpy.nan
    with pytest.raises(ValueError, match="unary energy has nan"):
        crf.setUnaryEnergy(energies)


# Large enough for several threads. A program of its own: this process may have any threads.
FORKING = """
import multiprocessing
import numpy, torch
import fastseg.crf.densecrf as dcrf

def labels(seed):
    draw = numpy.random.default_rng(seed)
    d = dcrf.DenseCRF2D(160, 120, 5)
    d.setUnaryEnergy(draw.random((5, 160 * 120), dtype=numpy.float32))
    d.addPairwiseGaussian(3, 3)
    d.addPairwiseBilateral(80, 13, draw.integers(0, 256, (120, 160, 3), dtype=numpy.uint8), 10)
    return numpy.array(d.inference(3)).tobytes(), torch.get_num_threads()

if __name__ == "__main__":
    torch.set_num_threads(3)
    torch.ones(1 << 20).exp()
    here = [labels(seed)[0] for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map(labels, range(4))
    assert [q for q, _ in there] == here
    assert {threads for _, threads in there} == {1}
    assert labels(0)[1] == 3
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_pool_of_forked_processes_works(tmp_path):
    program = tmp_path / "pool.py"
    program.write_text(FORKING)
    # It hangs where threads of the parent are waited for.
    run = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=120)
    assert run.stdout == "done\n", run.stderr


def test_features_of_a_kernel_are_copied():
    features = numpy.random.default_rng(3).random((2, 20), dtype=numpy.float32)
    results = []
    for changed in (False, True):
        d, own = dcrf.DenseCRF(20, 3), features.copy()
        d.setUnaryEnergy(unary())
        d.addPairwiseEnergy(own, 3, dcrf.DIAG_KERNEL)
        if changed:
            own[:] = 0
        results.append(d.gradient(2, lambda q: (q * q).sum()).kernel)
    assert (results[0] == results[1]).all()


def test_arrays_of_a_stepwise_inference_are_defined():
    q, first, second = crf().startInference()
    assert q.shape == first.shape == second.shape
    assert not first.any() and not second.any()


def test_another_default_dtype_changes_nothing():
    expected = crf().inference(2)
    torch.set_default_dtype(torch.float64)
    try:
        d = crf()
        numpy.testing.assert_array_equal(d.inference(2), expected)
        assert d.labelCompatibilityParameters().dtype == numpy.float32
    finally:
        torch.set_default_dtype(torch.float32)
