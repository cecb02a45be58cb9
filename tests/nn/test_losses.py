"""The losses of fastseg.nn: formulas of MONAI and mmsegmentation, combinations, edges."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastseg import nn as ours
from fastseg.nn import BCEWithLogitsLoss, CombinedLoss, DiceLoss, FocalLoss, UpsampleCrossEntropy
from fastseg.ops.upsample_class_sums.op import upsample_class_sums_op

SIZE = (26, 23)


def _case(classes: int = 4, ignored: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, 7, 6, generator=generator, dtype=torch.float64) * 2
    target = torch.randint(0, classes, (2, *SIZE), generator=generator)
    if ignored:
        target[torch.rand(target.shape, generator=generator) < 0.15] = 255
    return logits, target


def _full(logits: torch.Tensor) -> torch.Tensor:
    return F.interpolate(logits, SIZE, mode="bilinear")


def _same(loss: Any, formula: Any, logits: torch.Tensor, target: torch.Tensor) -> None:
    """`formula` of upsampled logits and the one-hot target (0 where ignored)."""
    results = []
    for function in (lambda z: loss(z, target), lambda z: formula(_full(z), one_hot(target, z))):
        leaf = logits.clone().requires_grad_()
        value = function(leaf)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-8, atol=1e-12)


def one_hot(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    if target.dim() == 4:
        return target.to(logits.dtype)
    y = F.one_hot(target.where(target != 255, 0), logits.shape[1]).movedim(3, 1)
    return (y * (target != 255)[:, None]).to(logits.dtype)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_dice_of_monai(squared, batch, background):
    def formula(z, y):
        p = z.softmax(1)
        if not background:
            p, y = p[:, 1:], y[:, 1:]
        axes = (0, 2, 3) if batch else (2, 3)
        overlap = (p * y).sum(axes)
        size = ((p * p if squared else p) + (y * y if squared else y)).sum(axes)
        return (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean()

    loss = DiceLoss.monai(
        include_background=background, squared_pred=squared, batch=batch, number_of_classes=4
    )
    _same(loss, formula, *_case())


def test_jaccard_of_monai():
    def formula(z, y):
        p = z.softmax(1)
        overlap, size = (p * y).sum((2, 3)), (p + y).sum((2, 3))
        return (1 - (2 * overlap + 1e-5) / (2 * (size - overlap) + 1e-5)).mean()

    _same(ours.JaccardLoss.monai(), formula, *_case())


@pytest.mark.parametrize("naive", [False, True])
def test_dice_of_mmsegmentation(naive):
    def formula(z, y):
        p, eps = z.softmax(1).flatten(1), 1e-3
        y = y.flatten(1)
        overlap = (p * y).sum(1)
        if naive:
            return (1 - (2 * overlap + eps) / (p.sum(1) + y.sum(1) + eps)).mean()
        return (1 - 2 * overlap / ((p * p).sum(1) + eps + (y * y).sum(1) + eps)).mean()

    _same(DiceLoss.mmseg(naive_dice=naive), formula, *_case())


def test_focal_of_the_softmax_as_monai():
    def formula(z, y):
        log_p = z.log_softmax(1)
        return (-y * (1 - log_p.exp()) ** 2 * log_p).sum(1).mean()

    _same(FocalLoss(activation="softmax"), formula, *_case())


def test_bce_is_pytorchs():
    logits, _ = _case()
    target = torch.rand(2, 4, *SIZE, dtype=torch.float64)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    _same(
        BCEWithLogitsLoss("multilabel", pos_weight=weight),
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, pos_weight=weight[:, None, None]),
        logits,
        target,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_as_a_term_is_cross_entropy(smoothing, reduction):
    logits, target = _case(ignored=True)
    weight = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    alone = UpsampleCrossEntropy(weight, 255, reduction, smoothing)
    together = CombinedLoss(ce=(1.0, alone), dice=(0.0, DiceLoss(ignore_index=255)))
    torch.testing.assert_close(together(logits, target), alone(logits, target))


def test_pixel_weights_are_those_of_the_mean():
    logits, target = _case(ignored=True)
    pixel_weight = torch.rand(2, *SIZE, dtype=torch.float64)
    loss = F.cross_entropy(_full(logits), target, ignore_index=255, reduction="none")
    counted = pixel_weight * (target != 255)
    ours_ = UpsampleCrossEntropy(ignore_index=255)(logits, target, pixel_weight)
    torch.testing.assert_close(ours_, (loss * counted).sum() / counted.sum())


def _calls(function: Any) -> int:
    """How often the op runs, forward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.calls += func is upsample_class_sums_op
            return func(*args, **(kwargs or {}))

    with Count():
        function()
    return Count.calls


def test_a_combination_is_one_call_for_all_that_read_the_pixels_alike():
    logits, target = _case()
    assert _calls(lambda: CombinedLoss(ce=1, dice=1, jaccard=0.1)(logits, target)) == 1
    assert _calls(lambda: CombinedLoss(ce=1, dice=1, focal=1)(logits, target)) == 2


def test_a_combination_passes_over_the_pixels_twice():
    """Once forward and once backward, and in no other operator at the target's size."""
    from torch.utils._python_dispatch import TorchDispatchMode

    logits, target = _case()
    logits = logits.requires_grad_()
    ran, large = [], []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func.namespace == "fastseg":
                ran.append(func.__name__)
            elif any(torch.is_tensor(x) and x.shape[-2:] == target.shape[-2:] for x in args):
                large.append(func.__name__)
            return result

    with Watch():
        CombinedLoss(ce=1, dice=1)(logits, target).backward()
    assert len(ran) == 2 and "backward" not in ran[0] and "backward" in ran[1], ran
    assert not large, large


@pytest.mark.parametrize("text", ["ce+dice", "ce + 0.5*dice", "2*ce+.25*focal+jaccard"])
def test_losses_by_text(text):
    logits, target = _case(ignored=True)
    assert ours.parse_loss(text, ignore_index=255)(logits, target).isfinite()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("ce+dise", "loss is 'ce\\+dise'"),
        ("ce+ce", "ce occurs twice"),
        ("", "loss is ''"),
        ("-1*ce", "expected names"),
    ],
)
def test_texts_that_are_no_loss(text, match):
    with pytest.raises(ValueError, match=match):
        ours.parse_loss(text)


def test_autocast_gives_float32():
    logits, target = _case()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CombinedLoss(ce=1, dice=1)(logits.bfloat16().requires_grad_(), target)
    assert loss.dtype is torch.float32
    loss.backward()


EDGES = [DiceLoss(), ours.JaccardLoss(), ours.TverskyLoss(gamma=4 / 3), DiceLoss(log_loss=True)]


@pytest.mark.parametrize("loss", EDGES, ids=lambda loss: type(loss).__name__)
def test_nothing_that_counts_is_loss_zero(loss):
    logits, target = _case()
    loss.ignore_index = 255
    leaf = logits.requires_grad_()
    value = loss(leaf, torch.full_like(target, 255))
    value.backward()
    assert value == 0 and (leaf.grad == 0).all()


def test_ignored_pixels_count_nowhere():
    logits, target = _case(ignored=True)
    loss = CombinedLoss(ce=1, dice=1, ignore_index=255)
    wide = torch.full((2, *SIZE), 255)
    wide[:, :, :12] = target[:, :, :12]
    half = loss(logits, wide)
    logits[:, :, :, 5] = 1e3  # only under ignored pixels
    assert loss(logits, wide) == half


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_any_number_of_classes(classes):
    logits = torch.randn(1, classes, 3, 3, requires_grad=True)
    target = torch.randint(0, classes, (1, 8, 8))
    loss = CombinedLoss(ce=1, dice=1)(logits, target)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_nan_stays_nan():
    logits, target = _case()
    logits[0, 1, 3, 3] = float("nan")
    assert DiceLoss()(logits, target).isnan()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32, torch.bool])
def test_binary_masks_of_any_form(dtype):
    logits = torch.randn(2, 1, 4, 5)
    mask = torch.randint(0, 2, (2, 13, 11)).to(dtype)
    loss = CombinedLoss("binary", bce=1, dice=1)
    expected = loss(logits, mask.long())
    torch.testing.assert_close(loss(logits, mask), expected)
    torch.testing.assert_close(loss(logits, mask[:, None]), expected)


def test_an_index_map_with_a_channel():
    logits, target = _case()
    assert DiceLoss()(logits, target[:, None]) == DiceLoss()(logits, target)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DiceLoss("soft"), "mode is 'soft'"),
        (lambda: DiceLoss("binary", classes=[0]), "classes is given"),
        (lambda: DiceLoss(alpha=1.0), "alpha is an argument of TverskyLoss"),
        (lambda: DiceLoss.monai(include_background=False), "number_of_classes is None"),
        (lambda: DiceLoss(classes=[7])(*_case()), "classes is \\[7\\]"),
        (lambda: BCEWithLogitsLoss("multiclass"), "mode is 'multiclass'"),
        (lambda: BCEWithLogitsLoss(smooth_factor=2.0), "smooth_factor is 2.0"),
        (lambda: FocalLoss("binary", activation="softmax"), "activation is 'softmax'"),
        (lambda: FocalLoss(reduction="none"), "reduction is 'none'"),
        (lambda: CombinedLoss(), "without a loss"),
        (lambda: CombinedLoss(mse=1), "no loss 'mse'"),
        (lambda: CombinedLoss("binary", ce=1), "use 'bce'"),
        (lambda: DiceLoss("binary")(*_case()), "expected 1 for mode 'binary'"),
        (lambda: DiceLoss("multilabel")(*_case()), "expected masks"),
    ],
)
def test_errors_name_the_argument(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_an_empty_batch():
    logits = torch.randn(0, 3, 4, 4, requires_grad=True)
    loss = CombinedLoss(dice=1)(logits, torch.zeros(0, 8, 8, dtype=torch.int64))
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("batch", [False, True])
def test_tversky_of_monai(batch):
    def formula(z, y):
        p = z.softmax(1)
        axes = (0, 2, 3) if batch else (2, 3)
        tp, fp, fn = ((p * y).sum(axes), (p * (1 - y)).sum(axes), ((1 - p) * y).sum(axes))
        return (1 - (tp + 1e-5) / (tp + 0.2 * fp + 0.8 * fn + 1e-5)).mean()

    loss = ours.TverskyLoss.monai(alpha=0.2, beta=0.8, batch=batch)
    _same(loss, formula, *_case())


def test_tversky_of_mmsegmentation():
    def formula(z, y):
        p, valid = z.softmax(1), y.sum(1, keepdim=True)
        tp = (p * y * valid).sum((2, 3))
        fp, fn = (p * (1 - y) * valid).sum((2, 3)), ((1 - p) * y * valid).sum((2, 3))
        return (1 - (tp + 1) / (tp + 0.3 * fp + 0.7 * fn + 1)).mean()

    _same(ours.TverskyLoss.mmseg(), formula, *_case(ignored=True))


@pytest.mark.parametrize("weight", ["square", "simple", "uniform"])
@pytest.mark.parametrize("batch", [False, True])
def test_generalized_dice_of_monai(weight, batch):
    logits, target = _case()
    target[1][target[1] == 2] = 0  # absent from an image
    target[target == 3] = 1  # absent from the batch

    def formula(z, y):
        p = z.softmax(1)
        axes = (0, 2, 3) if batch else (2, 3)
        overlap, size, truth = (p * y).sum(axes), (p + y).sum(axes), y.sum(axes)
        w = {"square": 1 / truth**2, "simple": 1 / truth, "uniform": torch.ones_like(truth)}[weight]
        infinite = w.isinf()
        w = w.masked_fill(infinite, 0.0)
        w = w + infinite * w.max(-1, keepdim=True).values
        numerator, denominator = 2 * (overlap * w).sum(-1), (size * w).sum(-1)
        return (1 - (numerator + 1e-5) / (denominator + 1e-5)).mean()

    _same(ours.GeneralizedDiceLoss(weight=weight, batch=batch), formula, logits, target)


def test_the_boundary_loss_of_mmsegmentation():
    logits, _ = _case(1)
    target = (torch.rand(2, 1, *SIZE, dtype=torch.float64) < 0.1).long()
    target[torch.rand(2, 1, *SIZE) < 0.1] = 255

    def formula(z, y):
        positive, negative = y == 1, y == 0
        pos, neg = positive.sum().double(), negative.sum().double()
        weight = positive * (neg / (pos + neg)) + negative * (pos / (pos + neg))
        return F.binary_cross_entropy_with_logits(z, y, weight)

    loss = BCEWithLogitsLoss("binary", ignore_index=255, over="all", balanced=True)
    _same(loss, formula, logits, target)


def test_losses_of_one_activation_are_one_call():
    logits, target = _case()
    focal = FocalLoss(activation="softmax", gamma=1.5)
    terms = CombinedLoss(ce=1, focal=(1.0, focal), dice=1)
    assert _calls(lambda: terms(logits, target)) == 1
    parts = (UpsampleCrossEntropy(), focal, DiceLoss())
    torch.testing.assert_close(terms(logits, target), sum(loss(logits, target) for loss in parts))
    twice = CombinedLoss(first=(1.0, focal), second=(1.0, FocalLoss(activation="softmax")))
    assert _calls(lambda: twice(logits, target)) == 2  # another gamma


def test_classes_that_are_none():
    with pytest.raises(ValueError, match="classes is \\[-5\\], but the logits have 4 classes"):
        ours.GeneralizedDiceLoss(classes=[-5])(*_case())
    with pytest.raises(ValueError, match="overlap is 'sum'"):
        DiceLoss(overlap="sum")
    with pytest.raises(ValueError, match="weight is 'cube'"):
        ours.GeneralizedDiceLoss(weight="cube")
