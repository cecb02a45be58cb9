"""A small model of pydensecrf's interface, and what it is made of."""

from __future__ import annotations

from typing import Any

import numpy

import fastseg.crf.densecrf as dcrf

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
