"""Every loss at the edges: what PyTorch's or the library's own does, or an error that says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fastseg import nn as fnn
from fastseg.nn import functional as fnf

SIZE = (14, 11)
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Losses of labels; whether all pixels ignored give 0 (region losses) or NaN, as a mean of nothing.
LOSSES: dict[str, tuple[Loss, bool]] = {
    "ce": (fnn.UpsampleCrossEntropy(ignore_index=255), False),
    "ce of pixel weights": (
        lambda z, y: fnn.UpsampleCrossEntropy(ignore_index=255)(z, y, torch.ones(y.shape)),
        False,
    ),
    "dice": (fnn.DiceLoss(ignore_index=255), True),
    "log dice": (fnn.DiceLoss(log_loss=True, ignore_index=255), True),
    "jaccard": (fnn.JaccardLoss(ignore_index=255), True),
    "tversky": (fnn.TverskyLoss(gamma=4 / 3, ignore_index=255), True),
    "focal": (fnn.FocalLoss(ignore_index=255), False),
    "softmax focal": (fnn.FocalLoss(activation="softmax", ignore_index=255), False),
    "ohem": (fnn.OhemCrossEntropy(min_kept=10), False),
    "lovasz": (fnn.LovaszLoss(ignore_index=255), True),
    "ce + dice": (fnn.CombinedLoss(ce=1, dice=1, ignore_index=255), False),
}
EVERY = pytest.mark.parametrize("name", LOSSES)


def _case(classes: int = 4, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(batch, classes, 4, 5, generator=generator)
    target = torch.randint(0, classes, (batch, *SIZE), generator=generator)
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    return logits.requires_grad_(), target


@EVERY
def test_a_class_that_is_nowhere(name):
    """Neither in the target nor, with a logit of -1000, in the prediction."""
    logits, target = _case()
    target[target == 2] = 1
    with torch.no_grad():
        logits[:, 2] = -1000.0
    value = LOSSES[name][0](logits, target)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert logits.grad[:, 2].abs().max() < 1e-6


def test_a_root_of_nothing():
    """The slope of a root at 0 is infinite; a focal Tversky loss of 0 must not make it NaN."""
    logits, target = _case()
    value = fnn.TverskyLoss(gamma=0.75, ignore_index=255)(logits, torch.full_like(target, 255))
    value.backward()
    assert value == 0 and (logits.grad == 0).all()


def test_class_weights_that_do_not_fit():
    logits, target = _case()
    with pytest.raises(ValueError, match="class_weights has 3 numbers, but the logits have 4"):
        fnn.DiceLoss(class_weights=[1.0, 2.0, 3.0], ignore_index=255)(logits, target)
    with pytest.raises(ValueError, match="class_weights is given, but mode 'binary' has one class"):
        fnn.FocalLoss("binary", class_weights=[1.0])
    with pytest.raises(ValueError, match=r"class_weights is .*expected numbers of at least 0"):
        fnn.JaccardLoss(class_weights=[1.0, -1.0])


@EVERY
def test_all_ignored(name):
    logits, target = _case()
    loss, is_zero = LOSSES[name]
    value = loss(logits, torch.full_like(target, 255))
    if is_zero:
        value.backward()
        assert value == 0 and (logits.grad == 0).all()
    else:
        assert value.isnan()


@EVERY
@pytest.mark.parametrize("classes", [1, 2, 255, 1000])
def test_numbers_of_classes(name, classes):
    if name == "lovasz" and classes == 1000:
        classes = 300  # it goes over the classes one by one
    logits, target = _case(classes, batch=1)
    if classes > 255:
        target[target == 255] = 0
    value = LOSSES[name][0](logits, target)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@EVERY
def test_nan_is_not_hidden(name):
    logits, target = _case()
    with torch.no_grad():
        logits[0, 1, 2, 2] = float("nan")
    value = LOSSES[name][0](logits, target)
    if name == "ohem":  # no pixel is kept whose loss is NaN, as mmsegmentation's comparison has it
        assert value.isfinite()
    else:
        assert value.isnan()


@EVERY
def test_an_empty_batch(name):
    logits, target = _case(batch=0)
    value = LOSSES[name][0](logits, target)
    value.backward()
    assert value == 0 or value.isnan()  # a sum or a mean of nothing
    assert logits.grad.shape == logits.shape


@EVERY
def test_autocast_gives_float32(name):
    logits, target = _case()
    half = logits.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = LOSSES[name][0](half, target)
    value.backward()
    assert value.dtype is torch.float32 and half.grad.dtype is torch.bfloat16
    exact = LOSSES[name][0](half.detach().float(), target)
    torch.testing.assert_close(value.detach(), exact, rtol=1e-5, atol=1e-6)


def test_autocast_of_masks_and_of_a_teacher():
    logits, _ = _case()
    half = logits.detach().bfloat16().requires_grad_()
    masks = torch.randint(0, 2, (2, 4, *SIZE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        both = fnn.CombinedLoss("multilabel", bce=1, dice=1)(half, masks)
        distilled = fnn.DistillationLoss(2.0)(half, torch.randn(2, 4, 3, 3).bfloat16(), SIZE)
    (both + distilled).backward()
    assert both.dtype is distilled.dtype is torch.float32


MASKS = {
    "dice": fnn.DiceLoss,
    "jaccard": fnn.JaccardLoss,
    "tversky": fnn.TverskyLoss,
    "focal": fnn.FocalLoss,
    "bce": fnn.BCEWithLogitsLoss,
    "generalized dice": fnn.GeneralizedDiceLoss,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool, torch.float32])
def test_masks_of_any_form(name, dtype):
    """[N, H, W], [N, 1, H, W] of one class; [N, C, H, W] of several: any dtype means the same."""
    logits = torch.randn(2, 3, 4, 5)
    masks = torch.randint(0, 2, (2, 3, *SIZE))
    many = MASKS[name]("multilabel")
    torch.testing.assert_close(many(logits, masks.to(dtype)), many(logits, masks))
    one = MASKS[name]("binary")
    expected = one(logits[:, :1], masks[:, 0])
    torch.testing.assert_close(one(logits[:, :1], masks[:, 0].to(dtype)), expected)
    torch.testing.assert_close(one(logits[:, :1], masks[:, :1].to(dtype)), expected)


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_masks_of_0_and_255_are_named(mode, backend):
    from fastseg import use_backend

    classes = 1 if mode == "binary" else 3
    masks = torch.zeros(2, classes, *SIZE, dtype=torch.uint8)
    masks[1, classes - 1, 3, 4] = 255
    masks[1, classes - 1, 13, 4] = 7
    place = f"1, {classes - 1}, 3, 4" if mode == "multilabel" else "1, 3, 4"
    with use_backend(backend), pytest.raises(ValueError, match=rf"target is 255 at \({place}\)"):
        fnn.DiceLoss(mode)(torch.zeros(2, classes, 4, 5), masks)
    assert fnn.DiceLoss(mode, ignore_index=255)(
        torch.zeros(2, classes, 4, 5), masks.clamp_min(255)
    ).isfinite()


def test_functions_are_the_modules():
    logits, target = _case()
    masks = torch.randint(0, 2, (2, 4, *SIZE))
    weight = torch.rand(2, *SIZE)
    options = {"ignore_index": 255}
    same = [
        (fnf.dice_loss(logits, target, log_loss=True, **options), LOSSES["log dice"][0]),
        (fnf.jaccard_loss(logits, target, **options), LOSSES["jaccard"][0]),
        (fnf.tversky_loss(logits, target, gamma=4 / 3, **options), LOSSES["tversky"][0]),
        (fnf.focal_loss(logits, target, **options), LOSSES["focal"][0]),
        (fnf.ohem_cross_entropy(logits, target, min_kept=10), LOSSES["ohem"][0]),
        (fnf.lovasz_loss(logits, target, **options), LOSSES["lovasz"][0]),
        (
            fnf.generalized_dice_loss(logits, target, pixel_weight=weight, **options),
            lambda z, y: fnn.GeneralizedDiceLoss(**options)(z, y, weight),
        ),
        (
            fnf.binary_cross_entropy_with_logits(logits, masks, mode="multilabel"),
            lambda z, _: F.binary_cross_entropy_with_logits(
                F.interpolate(z, SIZE, mode="bilinear"), masks.float()
            ),
        ),
        (
            fnf.distillation_loss(logits, logits.detach() * 2, SIZE, temperature=2.0),
            lambda z, _: fnn.DistillationLoss(2.0)(z, z.detach() * 2, SIZE),
        ),
    ]
    for value, loss in same:
        torch.testing.assert_close(value, loss(logits, target))
