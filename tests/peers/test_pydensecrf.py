"""Programs written for pydensecrf: the same source with our modules and with theirs.

pydensecrf's own package does not build any more; pydensecrf2 has the same source and imports as
pydensecrf: pip install pydensecrf2.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F

import fastseg.crf.densecrf
import fastseg.crf.utils

dcrf = pytest.importorskip("pydensecrf.densecrf")
utils = pytest.importorskip("pydensecrf.utils")

THEIRS = SimpleNamespace(dcrf=dcrf, utils=utils)
OURS = SimpleNamespace(dcrf=fastseg.crf.densecrf, utils=fastseg.crf.utils)
SIZE = (37, 53)


def photograph() -> numpy.ndarray:
    """A smooth picture with an edge and noise."""
    rng = numpy.random.default_rng(0)
    y, x = numpy.mgrid[: SIZE[0], : SIZE[1]]
    picture = numpy.stack([3 * y, 2 * x + 20, 60 + 100 * (x + y > 40)], -1)
    return (picture + rng.integers(0, 25, (*SIZE, 3))).astype(numpy.uint8)


def probabilities(labels: int = 21) -> numpy.ndarray:
    generator = torch.Generator().manual_seed(0)
    low = 3 * torch.randn(1, labels, 5, 7, generator=generator)
    return F.interpolate(low, SIZE, mode="bilinear").softmax(1)[0].numpy()


# Each takes the modules and returns probabilities [L, P].


def deeplab(m: Any) -> Any:
    """DeepLab v2's settings, as its PyTorch versions call them."""
    probmap, image = probabilities(), photograph()
    C, H, W = probmap.shape
    U = numpy.ascontiguousarray(m.utils.unary_from_softmax(probmap))
    d = m.dcrf.DenseCRF2D(W, H, C)
    d.setUnaryEnergy(U)
    d.addPairwiseGaussian(sxy=1, compat=3)
    d.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
    return d.inference(10)


def weak_supervision(m: Any) -> Any:
    """Refinement of class activation maps: probabilities, settings that scale with the image."""
    probs, image, scale = probabilities(4), photograph(), 1.0
    height, width = image.shape[:2]
    d = m.dcrf.DenseCRF2D(width, height, 4)
    d.setUnaryEnergy(numpy.ascontiguousarray(m.utils.unary_from_softmax(probs)))
    d.addPairwiseGaussian(sxy=3 / scale, compat=3)
    d.addPairwiseBilateral(sxy=80 / scale, srgb=13, rgbim=numpy.copy(image), compat=10)
    return d.inference(10)


def hard_labels(m: Any) -> Any:
    """Refinement of a label map, all of whose values are labels."""
    labels, image = probabilities(3).argmax(0), photograph()
    height, width = image.shape[:2]
    d = m.dcrf.DenseCRF2D(width, height, 3)
    unary = m.utils.unary_from_labels(labels, 3, gt_prob=0.7, zero_unsure=False)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=image, compat=10)
    return d.inference(5)


def example(m: Any) -> Any:
    """pydensecrf's own example: 0 is unsure, every keyword written out."""
    labels, image = probabilities(3).argmax(0), photograph()
    d = m.dcrf.DenseCRF2D(image.shape[1], image.shape[0], 2)
    d.setUnaryEnergy(m.utils.unary_from_labels(labels, 2, gt_prob=0.7, zero_unsure=True))
    common = {"kernel": m.dcrf.DIAG_KERNEL, "normalization": m.dcrf.NORMALIZE_SYMMETRIC}
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, **common)
    d.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10, **common)
    Q, tmp1, tmp2 = d.startInference()
    for _ in range(5):
        assert numpy.isfinite(d.klDivergence(Q))
        d.stepInference(Q, tmp1, tmp2)
    return Q


def example_with_helpers(m: Any) -> Any:
    """The same through the class of any dimension and features from the helpers."""
    labels, image = probabilities(3).argmax(0), photograph()
    d = m.dcrf.DenseCRF(image.shape[1] * image.shape[0], 2)
    d.setUnaryEnergy(m.utils.unary_from_labels(labels, 2, gt_prob=0.7, zero_unsure=True))
    feats = m.utils.create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2])
    d.addPairwiseEnergy(
        feats,
        compat=3,
        kernel=m.dcrf.DIAG_KERNEL,
        normalization=m.dcrf.NORMALIZE_SYMMETRIC,
    )
    feats = m.utils.create_pairwise_bilateral(
        sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2
    )
    d.addPairwiseEnergy(
        feats,
        compat=10,
        kernel=m.dcrf.FULL_KERNEL,
        normalization=m.dcrf.NORMALIZE_SYMMETRIC,
    )
    return d.inference(5)


def saliency(m: Any) -> Any:
    """A saliency map as two probabilities, energies in float32 by hand."""
    p = probabilities(2)[1].astype("float32").clip(1e-6, 1 - 1e-6)
    U = numpy.stack([-numpy.log(1 - p), -numpy.log(p)]).reshape(2, -1).astype("float32")
    d = m.dcrf.DenseCRF2D(SIZE[1], SIZE[0], 2)
    d.setUnaryEnergy(U)
    d.addPairwiseGaussian(sxy=(3, 3), compat=numpy.array([[0, 3], [3, 0]], dtype=numpy.float32))
    d.addPairwiseBilateral(20, (5, 5, 5), photograph(), 5)
    return d.inference(3)


def certain_labels(m: Any) -> Any:
    """Energies that are infinite where the network is certain."""
    p = numpy.clip(probabilities(3) * 1.5, 0, 1)
    p[:, p.max(0) == 1] = p[:, p.max(0) == 1] == 1
    p /= p.sum(0)
    d = m.dcrf.DenseCRF2D(SIZE[1], SIZE[0], 3)
    d.setUnaryEnergy(m.utils.unary_from_softmax(p, clip=None))
    d.addPairwiseBilateral(30, 10, photograph(), 4, normalization=m.dcrf.NORMALIZE_AFTER)
    return d.inference(5)


def volume(m: Any) -> Any:
    """A stack of slices with two channels, as in medical work."""
    rng = numpy.random.default_rng(0)
    stack = (40 * rng.standard_normal((2, 6, 11, 12)).cumsum(2)).astype("float32")
    p = rng.dirichlet(numpy.ones(3), (6, 11, 12)).transpose(3, 0, 1, 2)
    d = m.dcrf.DenseCRF(6 * 11 * 12, 3)
    d.setUnaryEnergy(numpy.ascontiguousarray(m.utils.unary_from_softmax(p)))
    feats = m.utils.create_pairwise_gaussian(sdims=(1.0, 2.0, 2.0), shape=(6, 11, 12))
    d.addPairwiseEnergy(feats, compat=3)
    feats = m.utils.create_pairwise_bilateral((2, 4, 4), (20.0, 30.0), stack, chdim=0)
    d.addPairwiseEnergy(feats, compat=5, kernel=m.dcrf.CONST_KERNEL)
    return d.inference(5)


PROGRAMS = [
    deeplab,
    weak_supervision,
    hard_labels,
    example,
    example_with_helpers,
    saliency,
    certain_labels,
    volume,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_programs_give_the_same(program: Any) -> None:
    ours, theirs = (numpy.array(program(m)) for m in (OURS, THEIRS))
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    assert abs(ours - theirs).max() < 1e-4
    assert abs(ours - theirs).mean() < 1e-6
    near_tie = numpy.diff(numpy.sort(theirs, 0)[-2:], axis=0)[0] < 1e-4
    assert ((ours.argmax(0) == theirs.argmax(0)) | near_tie).all()


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_divergence(steps: int) -> None:
    values = []
    for m in (OURS, THEIRS):
        d = m.dcrf.DenseCRF2D(SIZE[1], SIZE[0], 4)
        d.setUnaryEnergy(m.utils.unary_from_softmax(probabilities(4)))
        d.addPairwiseBilateral(80, 13, photograph(), 10)
        Q, tmp1, tmp2 = d.startInference()
        for _ in range(steps):
            d.stepInference(Q, tmp1, tmp2)
        values.append(d.klDivergence(Q))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_names() -> None:
    """Whatever their modules offer, ours offer too (but for their internals)."""
    internal = {"Number", "eigen", "np", "warning", "KernelType", "NormalizationType"}
    for ours, theirs in ((OURS.dcrf, dcrf), (OURS.utils, utils)):
        names = {n for n in dir(theirs) if not n.startswith("_")} - internal
        assert not names - set(dir(ours))
    for name in ("DenseCRF", "DenseCRF2D"):
        methods = {n for n in dir(getattr(dcrf, name)) if not n.startswith("_")}
        assert not methods - set(dir(getattr(OURS.dcrf, name)))


def test_same_errors_where_both_refuse() -> None:
    """The same type of exception for shapes that do not fit."""
    u = numpy.zeros((3, 20), numpy.float32)
    image = numpy.zeros((5, 4, 3), numpy.uint8)
    for call in (
        lambda d: d.setUnaryEnergy(u[:2].copy()),
        lambda d: d.setUnaryEnergy(u.reshape(3, 4, 5)),
        lambda d: d.addPairwiseBilateral(80, 13, image, 10),
        lambda d: d.addPairwiseBilateral(80, 13, image[..., :2].copy(), 10),
        lambda d: d.addPairwiseBilateral(80, (13, 13), image.reshape(4, 5, 3), 10),
        lambda d: d.addPairwiseEnergy(u[:, :19].copy(), 3),
        lambda d: d.addPairwiseGaussian(3, "a"),
        lambda d: d.addPairwiseGaussian(3, numpy.zeros((3, 3, 3), numpy.float32)),
    ):
        kinds = []
        for m in (OURS, THEIRS):
            with pytest.raises(Exception) as caught:
                call(m.dcrf.DenseCRF2D(5, 4, 3))
            kinds.append(caught.type)
        assert kinds[0] is kinds[1]
