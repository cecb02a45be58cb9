"""What is special about upsample_class_sums; the generic tests cover the rest."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastseg import nn as fnn
from fastseg import upsample_class_sums, use_backend
from fastseg.bench.memory import peak_extra_bytes
from fastseg.bench.timing import Variant

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


@BACKENDS
def test_two_classes_by_hand(backend):
    # Columns at positions 0, 0.25, 0.75, 1 of the source: logit difference from 2 to -2.
    logits = torch.tensor([[[[2.0, -2.0]], [[0.0, 0.0]]]])
    target = torch.tensor([[[0, 0, 1, 255]]])
    p = [1 / (1 + math.exp(-d)) for d in (2.0, 1.0, -1.0)]
    q = [1 - v for v in p]
    names = ("probability", "overlap", "target", "count", "loss")
    with use_backend(backend):
        sums = upsample_class_sums(logits, target, names, ignore_index=255)
    expected = [
        [sum(p), sum(q)],
        [p[0] + p[1], q[2]],
        [2, 1],
        [3, 3],
        [-math.log(p[0] * p[1]), -math.log(q[2])],
    ]
    expected = torch.tensor([expected], dtype=torch.float64)
    torch.testing.assert_close(sums, expected, rtol=1e-6, atol=1e-6)


@BACKENDS
def test_binary_labels_are_masks(backend):
    logits = torch.randn(2, 1, 5, 6)
    mask = torch.randint(0, 2, (2, 13, 17))
    names = ("probability", "overlap", "target", "count", "loss", "negative_loss")
    with use_backend(backend):
        labels = upsample_class_sums(logits, mask, names, "sigmoid")
        for dtype in (torch.uint8, torch.bool, torch.int32, torch.float32, torch.bfloat16):
            masks = upsample_class_sums(logits, mask[:, None].to(dtype), names, "sigmoid")
            torch.testing.assert_close(masks, labels)


@BACKENDS
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_nan_reaches_the_sums_of_its_image_alone(backend, activation):
    logits = torch.randn(2, 3, 5, 6)
    logits[1, 1, 2, 2] = float("nan")
    target = torch.randint(0, 3, (2, 13, 17))
    with use_backend(backend):
        sums = upsample_class_sums(logits, target, ("probability", "loss"), activation)
    assert sums[0].isfinite().all() and sums[1, 0, 1].isnan()


def test_small_losses_keep_their_digits():
    """log(1 + e^-z) is not taken of a rounded sum: here nine of ten digits would be lost."""
    logits = torch.full((1, 1, 4, 4), 14.0)
    target = torch.ones(1, 8, 8, dtype=torch.int64)
    loss = upsample_class_sums(logits, target, ("loss",), "sigmoid").item()
    assert loss == pytest.approx(64 * math.log1p(math.exp(-14.0)), rel=1e-6)


def test_sums_of_many_pixels_are_exact_to_double():
    logits = torch.zeros(1, 1, 1, 1)
    target = torch.zeros(1, 3000, 3001, dtype=torch.uint8)
    sums = upsample_class_sums(logits, target, ("probability", "count"), "sigmoid")
    assert sums.tolist() == [[[3000 * 3001 / 2], [3000 * 3001]]]


def test_extra_memory_is_about_the_gradient():
    logits = torch.randn(4, 21, 129, 129, requires_grad=True)
    target = torch.randint(0, 21, (4, 513, 513))
    loss = fnn.CombinedLoss(ce=1, dice=1)

    def peer(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        full = F.interpolate(z, t.shape[1:], mode="bilinear")
        p, y = full.softmax(1), F.one_hot(t, 21).movedim(3, 1)
        dice = 1 - 2 * (p * y).sum((0, 2, 3)) / (p + y).sum((0, 2, 3))
        return F.cross_entropy(full, t) + dice.mean()

    def extra(function) -> int | None:
        def run(state: None) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(function(logits, target), logits)

        return peak_extra_bytes(Variant("", run), "cpu")

    extra(loss)  # what a first call leaves behind
    ours = extra(loss)
    if ours is None:
        pytest.skip("this system does not tell the peak of the resident set")
    print(f"extra memory: {ours / 2**20:.1f} MiB")
    assert ours <= 12 << 20
    assert extra(peer) > 20 * ours
