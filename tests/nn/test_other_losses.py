"""OHEM, distillation, Lovasz and boundary weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg.nn import DistillationLoss, LovaszLoss, OhemCrossEntropy, boundary_weight
from fastseg.nn import UpsampleCrossEntropy as CrossEntropy
from fastseg.testing.peers import declare_torchvision_ops

SIZE = (26, 23)


def _case(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 7, 6, generator=generator, dtype=torch.float64) * 2
    target = torch.randint(0, 4, (2, *SIZE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.15] = 255
    return logits.to(dtype), target


def _full(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, SIZE, mode="bilinear")


@pytest.mark.parametrize("min_kept", [1, 500, 10**9])
@pytest.mark.parametrize("threshold", [0.05, 0.7])
def test_ohem_keeps_the_pixels_of_low_probability(threshold, min_kept):
    """mmsegmentation's sampler: below max(threshold, the min_kept-th lowest probability)."""
    logits, target = _case()
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    full = _full(logits.requires_grad_())
    counted = target != 255
    p = full.softmax(1).gather(1, target.where(counted, 0)[:, None])[:, 0]
    lowest = p[counted].sort().values
    bound = max(threshold, lowest[min(min_kept, lowest.numel()) - 1].item())
    kept = counted & ((p < threshold) | (p <= bound if bound > threshold else p < bound))
    loss = F.cross_entropy(full, target, weight, ignore_index=255, reduction="none")
    expected = (loss * kept).sum() / weight[target[kept]].sum()
    (grad,) = torch.autograd.grad(expected, logits)
    ours = OhemCrossEntropy(threshold, min_kept, weight)(logits, target)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], grad)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("teacher_size", [(7, 6), (13, 9)])
def test_distillation_is_kl_div(temperature, teacher_size):
    logits, _ = _case()
    teacher = torch.randn(2, 4, *teacher_size, dtype=torch.float64) * 3
    log_p = (_full(logits.requires_grad_()) / temperature).log_softmax(1)
    q = (_full(teacher) / temperature).softmax(1)
    expected = F.kl_div(log_p, q, reduction="sum") * temperature**2 / (2 * SIZE[0] * SIZE[1])
    (grad,) = torch.autograd.grad(expected, logits)
    ours = DistillationLoss(temperature)(logits, teacher, SIZE)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(torch.autograd.grad(ours, logits)[0], grad)


def test_a_student_that_is_its_teacher_learns_nothing():
    logits = _case()[0].requires_grad_()
    loss = DistillationLoss(2.0)(logits, logits, SIZE)
    loss.backward()
    assert abs(loss.item()) < 1e-14 and logits.grad.abs().max() < 1e-16


@pytest.mark.parametrize("per_image", [False, True])
def test_lovasz_is_smps(per_image):
    declare_torchvision_ops()
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = _case(torch.float32)  # smp's refuses float64
    target[target == 3] = 1  # an absent class
    leaf = logits.clone().requires_grad_()
    peer = smp.losses.LovaszLoss("multiclass", per_image=per_image, ignore_index=255)
    expected = peer(_full(leaf), target)
    (grad,) = torch.autograd.grad(expected, leaf)
    ours = LovaszLoss("multiclass", per_image, 255)(leaf, target)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(ours, leaf)[0], grad, rtol=1e-3, atol=1e-6)


def test_the_gradient_of_lovasz():
    logits, target = _case()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return LovaszLoss(ignore_index=255)(x, target)

    assert torch.autograd.gradcheck(loss, logits.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_lovasz_hinge_is_smps(mode, per_image):
    declare_torchvision_ops()
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = _masks(mode, torch.float32)
    leaf = logits.clone().requires_grad_()
    peer = smp.losses.LovaszLoss(mode, per_image=per_image, ignore_index=255)
    expected = peer(_full(leaf), target)
    (grad,) = torch.autograd.grad(expected, leaf)
    ours = LovaszLoss(mode, per_image, 255)(leaf, target)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(ours, leaf)[0], grad, rtol=1e-3, atol=1e-6)


def _masks(mode: str, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    logits, target = _case(dtype)
    if mode == "binary":
        return logits[:, :1], torch.where(target == 255, 255, target % 2)
    return logits, torch.stack([torch.where(target == 255, 255, target == c) for c in range(4)], 1)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_every_derivative_of_lovasz(mode):
    """First and second order, and torch.func's: the definition serves what the walk cannot."""
    logits, target = _case() if mode == "multiclass" else _masks(mode)
    loss = LovaszLoss(mode, ignore_index=255)

    def of(x: torch.Tensor) -> torch.Tensor:
        return loss(x, target)

    leaf = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(of, leaf, fast_mode=True)
    assert torch.autograd.gradgradcheck(of, leaf, fast_mode=True)
    (grad,) = torch.autograd.grad(of(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(of)(logits), grad)
    along = torch.randn_like(logits)
    value, slope = torch.func.jvp(of, (logits,), (along,))
    torch.testing.assert_close(value, of(logits))
    torch.testing.assert_close(slope, (grad * along).sum())


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
def test_lovasz_compiled_in_one_graph(mode):
    logits, target = _case() if mode == "multiclass" else _masks(mode)
    loss = LovaszLoss(mode, ignore_index=255)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, target), loss(logits, target))


def test_lovasz_names_what_it_cannot_take():
    with pytest.raises(ValueError, match="mode is True, allowed are 'binary'"):
        LovaszLoss(True)  # per_image came first once
    logits, target = _case()
    with pytest.raises(ValueError, match="logits has 4 channels, expected 1"):
        LovaszLoss("binary")(logits, target)
    with pytest.raises(ValueError, match=r"expected masks \[N, 4, H, W\]"):
        LovaszLoss("multilabel")(logits, target)


def test_lovasz_of_nothing():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = LovaszLoss(ignore_index=255)(logits, torch.full((1, 8, 8), 255))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_boundary_weights_by_hand():
    target = torch.zeros(1, 3, 8, dtype=torch.int64)
    target[:, :, 4:] = 1
    near = boundary_weight(target, width=1, weight=5.0)[0, 0]
    assert near.tolist() == [1, 1, 5, 5, 5, 5, 1, 1]
    target[:, :, 4] = 255  # an ignored pixel between two classes is no border
    assert (boundary_weight(target, width=1) == 1).all()


def test_boundary_weights_in_a_loss():
    logits, target = _case()
    weight = boundary_weight(target).double()
    loss = F.cross_entropy(_full(logits), target, ignore_index=255, reduction="none")
    counted = weight * (target != 255)
    ours = CrossEntropy(ignore_index=255)(logits, target, weight)
    torch.testing.assert_close(ours, (loss * counted).sum() / counted.sum())


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: OhemCrossEntropy(threshold=0.0), "threshold is 0.0"),
        (lambda: OhemCrossEntropy(min_kept=0), "min_kept is 0"),
        (lambda: DistillationLoss(0.0), "temperature is 0.0"),
        (lambda: boundary_weight(torch.zeros(3, 3)), "target has shape"),
        (lambda: boundary_weight(torch.zeros(1, 3, 3), -1), "width is -1"),
        (lambda: LovaszLoss()(torch.zeros(1, 2, 2, 2), torch.full((1, 4, 4), 7)), "classes 7 to 7"),
        (lambda: LovaszLoss()(torch.zeros(1, 2, 2, 2), torch.zeros(1, 4, 4)), "expected classes"),
    ],
)
def test_errors_name_the_argument(make, match):
    with pytest.raises(ValueError, match=match):
        make()
