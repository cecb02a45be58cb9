"""fastseg.crf.densecrf and .utils: the interface, wrong arguments, edge cases, random calls."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastseg.crf
import fastseg.crf.densecrf as dcrf
from fastseg.crf import utils

NAN, INF = float("nan"), float("inf")


def unary(labels: int = 3, pixels: int = 20) -> numpy.ndarray:
    return numpy.random.default_rng(0).random((labels, pixels), dtype=numpy.float32)


def image(height: int = 4, width: int = 5) -> numpy.ndarray:
    return numpy.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=numpy.uint8)


def crf(**unary_energy: Any) -> dcrf.DenseCRF2D:
    """5 x 4 pixels, 3 labels, both terms."""
    d = dcrf.DenseCRF2D(5, 4, 3)
    d.setUnaryEnergy(unary_energy.get("u", unary()))
    d.addPairwiseGaussian(3, 3)
    d.addPairwiseBilateral(80, 13, image(), 10)
    return d


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


def _set(u: Any) -> Any:
    return lambda d: d.setUnaryEnergy(u)


def _at(value: float, index: Any) -> numpy.ndarray:
    u = unary()
    u[index] = value
    return u


WRONG = [
    (_set(unary()[:2]), ValueError, r"Need \(3, 20\), got \(2, 20\)"),
    (_set(unary()[:, :19]), ValueError, r"Need \(3, 20\), got \(3, 19\)"),
    (_set(unary().reshape(3, 4, 5)), ValueError, "3 dimensions, expected 2"),
    (_set(_at(NAN, (1, 7))), ValueError, r"has nan at \(0, 1, 7\)"),
    (_set(_at(-INF, (1, 7))), ValueError, r"has -inf at"),
    (_set(_at(INF, (slice(None), 7))), ValueError, r"excludes every label of pixel \(7,\)"),
    (lambda d: d.setUnary(unary()), TypeError, "ndarray, expected a Unary"),
    (lambda d: d.setUnary(dcrf.ConstUnary(unary(2))), ValueError, "expected"),
    (lambda d: dcrf.LogisticUnary(unary(3, 2), unary(3, 20)), ValueError, "columns of L"),
    (lambda d: d.addPairwiseGaussian(0, 3), ValueError, "positive and finite"),
    (lambda d: d.addPairwiseGaussian(-3, 3), ValueError, "positive and finite"),
    (lambda d: d.addPairwiseGaussian((3, NAN), 3), ValueError, "positive and finite"),
    (lambda d: d.addPairwiseGaussian((3,), 3), IndexError, "sxy is"),
    (lambda d: d.addPairwiseGaussian(1e-9, 3), ValueError, "feature|large"),
    (lambda d: d.addPairwiseGaussian(3, "a"), TypeError, "compat is 'a'"),
    (lambda d: d.addPairwiseGaussian(3, NAN), ValueError, "not finite"),
    (lambda d: d.addPairwiseGaussian(3, [1.0, 2.0]), ValueError, "expected 3 labels"),
    (lambda d: d.addPairwiseGaussian(3, numpy.ones((3, 2))), ValueError, "square"),
    (lambda d: d.addPairwiseGaussian(3, numpy.ones((2, 2))), ValueError, "expected 3 labels"),
    (lambda d: d.addPairwiseGaussian(3, numpy.ones((3, 3, 3))), ValueError, "3 dimensions"),
    (lambda d: d.addPairwiseGaussian(3, 3, kernel=7), ValueError, "7"),
    (lambda d: d.addPairwiseGaussian(3, 3, normalization=9), ValueError, "9"),
    (lambda d: d.addPairwiseBilateral(80, (13, 13), image(), 1), IndexError, "srgb is"),
    (lambda d: d.addPairwiseBilateral(80, 13, image() / 2, 1), ValueError, "dtype float64"),
    (lambda d: d.addPairwiseBilateral(80, 13, image()[..., :2], 1), ValueError, "2 channels"),
    (lambda d: d.addPairwiseBilateral(80, 13, image()[..., 0], 1), ValueError, "Bad shape"),
    (lambda d: d.addPairwiseEnergy(numpy.ones((2, 19)), 3), ValueError, r"Need \(\?, 20\)"),
    (lambda d: d.addPairwiseEnergy(numpy.ones(20), 3), ValueError, "Bad shape"),
    (lambda d: d.addPairwiseEnergy(numpy.full((2, 20), NAN), 3), ValueError, "features has nan"),
    (lambda d: d.addPairwiseEnergy(numpy.full((2, 20), 1e9), 3), ValueError, "feature|large"),
    (lambda d: d.addPairwiseEnergy(numpy.ones((9, 20)), 3), ValueError, "feature"),
    (lambda d: d.stepInference(unary(2)), ValueError, "Q has shape"),
    (lambda d: d.klDivergence(unary(2)), ValueError, "Q has shape"),
    (lambda d: dcrf.DenseCRF2D(0, 4, 3), ValueError, "w is 0"),
    (lambda d: dcrf.DenseCRF2D(5, 4, -1), ValueError, "nlabels is -1"),
    (lambda d: dcrf.DenseCRF(2.5, 3), ValueError, "nvar is 2.5"),
]


@pytest.mark.parametrize(("call", "error", "match"), WRONG)
def test_wrong_arguments(call: Any, error: type[Exception], match: str):
    d = crf()
    before = d.inference(2).copy()
    with pytest.raises(error, match=match):
        call(d)
    assert numpy.array_equal(d.inference(2), before), "a refused call changed the model"


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: utils.unary_from_labels([[0, 1], [2, 3]], 2, 0.7), IndexError, "0 to 2"),
        (lambda: utils.unary_from_labels([0, 2], 2, 0.7, False), ValueError, "0 to 1"),
        (lambda: utils.unary_from_labels([-1, 1], 2, 0.7), ValueError, "-1 to 1"),
        (lambda: utils.unary_from_labels([0, 1], 2, 1.0), AssertionError, "gt_prob is 1.0"),
        (lambda: utils.unary_from_labels([0, 1], 2, NAN), ValueError, "gt_prob is nan"),
        (lambda: utils.unary_from_labels([0.0, 1], 2, 0.7), TypeError, "dtype float64"),
        (lambda: utils.unary_from_labels([0, 0], 0, 0.7), ValueError, "n_labels is 0"),
        (lambda: utils.unary_from_softmax(unary(), scale=0), AssertionError, "scale is 0"),
        (lambda: utils.unary_from_softmax(unary(), scale=1.5), ValueError, "scale is 1.5"),
        (lambda: utils.unary_from_softmax(0.3), ValueError, "sm has shape"),
        (lambda: utils.create_pairwise_gaussian((3, 3, 3), (4, 5)), IndexError, "3 widths"),
        (lambda: utils.create_pairwise_gaussian((3, 0), (4, 5)), ValueError, "positive"),
        (lambda: utils.create_pairwise_gaussian(3, (4, 5)), TypeError, "sequence of 2"),
        (
            lambda: utils.create_pairwise_bilateral((3, 3), -1, image(), 2),
            ValueError,
            "positive",
        ),
        (
            lambda: utils.create_pairwise_bilateral((3, 3), 1, image(), 3),
            ValueError,
            "chdim is 3",
        ),
    ],
)
def test_wrong_arguments_of_helpers(call: Any, error: type[Exception], match: str):
    with pytest.raises(error, match=match):
        call()


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


NUMBERS = st.sampled_from([0.0, 1.0, -2.0, 1e-4, 1e4, 1e30, NAN, INF, -INF])
WIDTHS = st.one_of(st.floats(0.1, 100), NUMBERS)


@st.composite
def models(draw: Any) -> Any:
    """A call sequence with mostly sensible, sometimes absurd, numbers."""
    width, height, labels = (draw(st.integers(1, n)) for n in (9, 7, 5))
    seed = draw(st.integers(0, 9))
    rng = numpy.random.default_rng(seed)
    u = rng.standard_normal((labels, width * height)).astype(numpy.float32)
    if draw(st.booleans()):
        u[draw(st.integers(0, labels - 1)), draw(st.integers(0, width * height - 1))] = draw(
            NUMBERS
        )
    compats = [
        draw(st.one_of(st.floats(-10, 10), NUMBERS)),
        rng.standard_normal(draw(st.sampled_from([labels, labels + 1]))),
        rng.standard_normal((labels, labels)),
    ]
    picture = rng.integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    features = rng.standard_normal((draw(st.integers(1, 9)), width * height))
    features *= draw(st.one_of(st.just(1.0), NUMBERS))
    norm = draw(st.sampled_from(list(dcrf.NormalizationType)))
    compat = compats[draw(st.integers(0, 2))]
    return (width, height, labels), u, picture, features, (draw(WIDTHS), draw(WIDTHS)), compat, norm


@settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(models())
def test_random_calls_end_in_an_error_or_in_probabilities(model: Any):
    size, u, picture, features, widths, compat, norm = model
    d = dcrf.DenseCRF2D(*size)
    try:
        with numpy.errstate(all="ignore"):
            d.setUnaryEnergy(u)
            d.addPairwiseGaussian(widths[0], compat, normalization=norm)
            d.addPairwiseBilateral(widths[0], widths[1], picture, 1.0)
            d.addPairwiseEnergy(features, compat, normalization=norm)
        q = d.inference(3)
    except (ValueError, TypeError):
        return
    assert q.shape == u.shape and numpy.isfinite(q).all()
    assert (q >= 0).all() and abs(q.sum(0) - 1).max() < 1e-4


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
