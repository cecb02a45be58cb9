"""fastseg.crf.densecrf and .utils: wrong arguments, and calls at random."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_crf import INF, NAN, crf, image, unary

import fastseg.crf.densecrf as dcrf
from fastseg.crf import utils


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
    (lambda d: d.addPairwiseGaussian("a", 3), TypeError, "^sxy is 'a'"),
    (lambda d: d.addPairwiseGaussian(1e-9, 3), ValueError, "feature|large"),
    (lambda d: d.addPairwiseGaussian(3, "a"), TypeError, "compat is 'a'"),
    (lambda d: d.addPairwiseGaussian(3, NAN), ValueError, "not finite"),
    (lambda d: d.addPairwiseGaussian(3, [1.0, 2.0]), ValueError, "expected 3 labels"),
    (lambda d: d.addPairwiseGaussian(3, numpy.ones((3, 2))), ValueError, "square"),
    (lambda d: d.addPairwiseGaussian(3, numpy.ones((2, 2))), ValueError, "expected 3 labels"),
    (lambda d: d.addPairwiseGaussian(3, numpy.ones((3, 3, 3))), ValueError, "3 dimensions"),
    (
        lambda d: d.addPairwiseGaussian(3, 3, kernel=7),
        ValueError,
        "^kernel is 7, allowed are CONST",
    ),
    (lambda d: d.addPairwiseGaussian(3, 3, normalization=9), ValueError, "^normalization is 9"),
    (lambda d: d.addPairwiseBilateral(80, (13, 13), image(), 1), IndexError, "srgb is"),
    (lambda d: d.addPairwiseBilateral(80, 13, image() / 2, 1), ValueError, "dtype float64"),
    (lambda d: d.addPairwiseBilateral(80, 13, image()[..., :2], 1), ValueError, "2 channels"),
    (lambda d: d.addPairwiseBilateral(80, 13, image()[..., 0], 1), ValueError, "Bad shape"),
    (lambda d: d.addPairwiseEnergy(numpy.ones((2, 19)), 3), ValueError, r"Need \(\?, 20\)"),
    (lambda d: d.addPairwiseEnergy(numpy.ones(20), 3), ValueError, "Bad shape"),
    (lambda d: d.addPairwiseEnergy(numpy.full((2, 20), NAN), 3), ValueError, "features has nan"),
    (lambda d: d.addPairwiseEnergy(numpy.full((2, 20), 1e9), 3), ValueError, "feature|large"),
    (lambda d: d.addPairwiseEnergy(numpy.ones((0, 20)), 3), ValueError, "pairwise energy"),
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
