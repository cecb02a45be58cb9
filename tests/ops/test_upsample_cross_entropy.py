"""What is special about upsample_cross_entropy; the generic tests cover the rest."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from fastseg import upsample_cross_entropy, use_backend
from fastseg.bench.memory import peak_extra_bytes
from fastseg.bench.timing import Variant
from fastseg.testing import assert_as_accurate

BACKENDS = pytest.mark.parametrize("backend", ["native", "reference"])


def _peer(logits, target, **options):
    upsampled = F.interpolate(logits, target.shape[1:], mode="bilinear")
    return F.cross_entropy(upsampled, target, **options)


@BACKENDS
def test_two_classes_by_hand(backend):
    # Columns at positions 0, 0.25, 0.75, 1 of the source: logit difference d from 2 to -2.
    logits = torch.tensor([[[[2.0, -2.0]], [[0.0, 0.0]]]])
    target = torch.tensor([[[0, 0, 1, 1]]])
    with use_backend(backend):
        loss = upsample_cross_entropy(logits, target, reduction="none")
    differences = [2.0, 1.0, 1.0, 2.0]  # of the right class over the other
    expected = [math.log1p(math.exp(-d)) for d in differences]
    torch.testing.assert_close(loss, torch.tensor([[expected]]))


@BACKENDS
def test_the_mean_of_no_pixels_is_nan_and_its_gradient_zero(backend):
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    with use_backend(backend):
        loss = upsample_cross_entropy(logits, torch.full((1, 8, 8), 255), ignore_index=255)
        loss.backward()
    assert loss.isnan()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@BACKENDS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logits_as_in_torch(backend, value):
    logits = torch.randn(1, 4, 5, 6)
    logits[0, 2, 2, 3] = value
    target = torch.randint(0, 4, (1, 13, 17))
    expected = _peer(logits, target, reduction="none")
    with use_backend(backend):
        loss = upsample_cross_entropy(logits, target, reduction="none")
    torch.testing.assert_close(loss, expected, equal_nan=True)


def test_ignored_pixels_have_no_influence():
    logits = torch.randn(1, 4, 4, 4, requires_grad=True)
    target = torch.full((1, 16, 16), -1)
    target[:, :4, :4] = 2
    upsample_cross_entropy(logits, target, ignore_index=-1).backward()
    assert logits.grad[:, :, 2:].abs().max() == 0 and logits.grad[:, :, :, 2:].abs().max() == 0
    assert logits.grad[0, :, 0, 0].abs().min() > 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_second_backward_through_a_retained_graph(reduction):
    logits = torch.randn(2, 5, 6, 7, requires_grad=True)
    target = torch.randint(0, 5, (2, 12, 14))
    loss = upsample_cross_entropy(logits, target, reduction=reduction)
    (first,) = torch.autograd.grad(loss, logits, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, logits, torch.tensor(3.0))
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, 3 * first)


def test_gradient_does_not_share_memory_between_steps():
    logits = torch.randn(1, 5, 6, 7, requires_grad=True)
    target = torch.randint(0, 5, (1, 12, 14))
    upsample_cross_entropy(logits, target).backward()
    once = logits.grad.clone()
    upsample_cross_entropy(logits, target).backward()
    torch.testing.assert_close(logits.grad, 2 * once)


def test_scaled_loss():
    logits = torch.randn(1, 5, 6, 7, requires_grad=True)
    target = torch.randint(0, 5, (1, 12, 14))
    (plain,) = torch.autograd.grad(upsample_cross_entropy(logits, target), logits)
    (scaled,) = torch.autograd.grad(1024 * upsample_cross_entropy(logits, target), logits)
    torch.testing.assert_close(scaled, 1024 * plain)


def test_weights_that_ask_for_a_gradient_are_an_error():
    logits, weight = torch.randn(1, 3, 4, 4, requires_grad=True), torch.ones(3, requires_grad=True)
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    with pytest.raises(NotImplementedError, match="weight has no derivative"):
        upsample_cross_entropy(logits, target, weight)
    with pytest.raises(NotImplementedError, match="weight has no derivative"):
        torch.func.jvp(lambda w: upsample_cross_entropy(logits, target, w), (weight,), (weight,))


HALVES = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
def test_the_dtype_of_the_loss_is_that_of_cross_entropy(dtype, reduction, compiled):
    """Under autocast and outside; the gradient has the dtype of the logits."""
    if dtype is torch.float64 and compiled:
        pytest.skip("one dtype without autocast's part is enough")
    torch._dynamo.reset()
    logits = torch.randn(2, 5, 6, 7).mul(3).to(dtype).requires_grad_()
    target = torch.randint(0, 5, (2, 24, 28))
    ours = upsample_cross_entropy
    if compiled:
        ours = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for autocast in (torch.bfloat16, torch.float16, None):
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            loss = ours(logits, target, reduction=reduction)
            peer = _peer(logits, target, reduction=reduction)
        truth = _peer(logits.double(), target, reduction=reduction)
        assert loss.dtype == peer.dtype
        if dtype is not torch.float64:  # the truth itself
            assert_as_accurate(loss, peer, truth)
        (grad,) = torch.autograd.grad(loss.sum() * 2.0, logits)
        assert grad.dtype == dtype


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_large_sum_is_finite_under_autocast(dtype):
    """And so is the gradient of a loss that GradScaler has scaled."""
    logits = torch.randn(1, 21, 64, 64).mul(10).to(dtype).requires_grad_()
    target = torch.randint(0, 21, (1, 256, 256))
    with torch.autocast("cpu", dtype=dtype):
        loss = upsample_cross_entropy(logits, target, reduction="sum")
        mean = upsample_cross_entropy(logits, target)
    torch.testing.assert_close(loss.double(), _peer(logits.double(), target, reduction="sum"))
    (grad,) = torch.autograd.grad(mean * 65536.0, logits)
    assert grad.isfinite().all()


def test_the_loss_of_an_exported_program_is_float32_under_autocast():
    class Loss(torch.nn.Module):
        def forward(self, logits, target):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return upsample_cross_entropy(logits, target)

    args = (torch.randn(1, 3, 4, 4).bfloat16(), torch.randint(0, 3, (1, 8, 8)))
    program = torch.export.export(Loss(), args)
    assert program.module()(*args).dtype is torch.float32


def test_extra_memory_is_the_gradient_at_low_resolution():
    logits = torch.randn(4, 150, 128, 128, requires_grad=True)
    target = torch.randint(0, 150, (4, 512, 512))

    def extra(function) -> int | None:
        def run(state: None) -> tuple[torch.Tensor, ...]:
            return torch.autograd.grad(function(logits, target), logits)

        return peak_extra_bytes(Variant("", run), "cpu")

    extra(upsample_cross_entropy)  # what a first call leaves behind
    ours = extra(upsample_cross_entropy)
    if ours is None:
        pytest.skip("this system does not tell the peak of the resident set")
    assert ours < 1.3 * logits.nbytes
    assert extra(_peer) > 30 * ours
