"""The losses of segmentation_models_pytorch, of upsampled logits, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastseg import nn as ours
from fastseg.testing.peers import declare_torchvision_ops

declare_torchvision_ops()
losses = pytest.importorskip("segmentation_models_pytorch").losses

CLASSES, SIZE = 5, (26, 23)


def _case(mode: str, ignore: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and target; class 3 is absent from the target."""
    generator = torch.Generator().manual_seed(0)
    classes = 1 if mode == "binary" else CLASSES
    logits = torch.randn(2, classes, 7, 6, generator=generator, dtype=torch.float64) * 2
    if mode == "multiclass":
        target = torch.randint(0, CLASSES, (2, *SIZE), generator=generator)
        target[target == 3] = 2
    else:
        target = torch.randint(0, 2, (2, classes, *SIZE), generator=generator)
        if mode == "multilabel":
            target[:, 3] = 0
    if ignore:
        target[torch.rand(target.shape, generator=generator) < 0.15] = 255
    return logits, target


def _check(loss: Any, peer: Any, mode: str, ignore: bool = False, full: bool = False) -> None:
    """Same value and gradient; `full`: of probabilities at the target's size."""
    logits, target = _case(mode, ignore)
    if full:
        logits = F.interpolate(logits, SIZE, mode="bilinear")
        logits = logits.softmax(1) if mode == "multiclass" else logits.sigmoid()
    results = []
    for function, upsample in ((loss, False), (peer, True)):
        leaf = logits.clone().requires_grad_()
        given = F.interpolate(leaf, SIZE, mode="bilinear") if upsample and not full else leaf
        label = target.to(leaf.dtype) if upsample and mode != "multiclass" else target
        value = function(given, label)
        value.backward()
        results.append((value.detach(), leaf.grad))
    (value, grad), (expected, expected_grad) = results
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-12)
    if full and mode == "multiclass":  # ours are divided by their sum, which is 1
        expected_grad = expected_grad - (expected_grad * logits).sum(1, keepdim=True)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-8, atol=1e-12)


REGION_OPTIONS: list[dict[str, Any]] = [
    {},
    {"log_loss": True},
    {"smooth": 1.0},
    {"eps": 0.5},
    {"from_logits": False},
]


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("options", REGION_OPTIONS, ids=str)
@pytest.mark.parametrize("ignore", [False, True])
def test_dice(mode, options, ignore):
    index = 255 if ignore else None
    _check(
        ours.DiceLoss(mode, ignore_index=index, **options),
        losses.DiceLoss(mode, ignore_index=index, **options),
        mode,
        ignore,
        "from_logits" in options,
    )


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("options", REGION_OPTIONS, ids=str)
def test_jaccard(mode, options):
    peer = losses.JaccardLoss(mode, **options)
    _check(ours.JaccardLoss(mode, **options), peer, mode, full="from_logits" in options)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("options", [{"alpha": 0.3, "beta": 0.7}, {"gamma": 4 / 3}], ids=str)
def test_tversky(mode, ignore, options):
    index = 255 if ignore else None
    _check(
        ours.TverskyLoss(mode, ignore_index=index, **options),
        losses.TverskyLoss(mode, ignore_index=index, **options),
        mode,
        ignore,
    )


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss"])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_some_classes(name, mode):
    _check(
        getattr(ours, name)(mode, classes=[0, 2, 3]),
        getattr(losses, name)(mode, classes=[0, 2, 3]),
        mode,
    )


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss"])
@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
@pytest.mark.parametrize("classes", [None, [3, 0]], ids=["all", "some"])
def test_class_weights(name, mode, classes):
    # Powers of two: smp keeps the weights in float32.
    options = {"class_weights": [0.5, 2.0, 1.0, 0.25, 4.0]}
    if name != "FocalLoss":
        options["classes"] = classes
    elif classes is not None:
        pytest.skip("FocalLoss has no classes")
    _check(getattr(ours, name)(mode, **options), getattr(losses, name)(mode, **options), mode)


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel"])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.25, "gamma": 1.5},
        {"normalized": True},
        {"reduced_threshold": 0.4},
        {"reduction": "sum"},
    ],
    ids=str,
)
def test_focal(mode, ignore, options):
    if ignore and mode == "multilabel":
        pytest.skip("smp 0.6.0 raises IndexError: it indexes a class with the mask of all classes")
    index = 255 if ignore else None
    _check(
        ours.FocalLoss(mode, ignore_index=index, **options),
        losses.FocalLoss(mode, ignore_index=index, **options),
        mode,
        ignore,
    )


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("options", [{}, {"smooth_factor": 0.1}, {"reduction": "sum"}], ids=str)
def test_bce(mode, ignore, options):
    index = 255 if ignore else None
    _check(
        ours.BCEWithLogitsLoss(mode, ignore_index=index, over="all", **options),
        losses.SoftBCEWithLogitsLoss(ignore_index=255, **options),
        mode,
        ignore,
    )


def test_bce_with_weights_of_the_positives():
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64)
    peer = losses.SoftBCEWithLogitsLoss(pos_weight=weight.view(1, -1, 1, 1))
    _check(ours.BCEWithLogitsLoss("multilabel", pos_weight=weight), peer, "multilabel")


def test_combined():
    dice = losses.DiceLoss("multiclass", ignore_index=255)

    def peer(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits, target, ignore_index=255) + 0.5 * dice(logits, target)

    _check(ours.CombinedLoss(ce=1, dice=0.5, ignore_index=255), peer, "multiclass", True)


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss"])
@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_soft_targets(name, mode):
    """smp's intersection is that of L1 norms: sum min(p, y)."""
    logits, _ = _case(mode, False)
    target = torch.rand(2, logits.shape[1], *SIZE, dtype=torch.float64)
    results = []
    for library in (ours, losses):
        leaf = logits.clone().requires_grad_()
        full = leaf if library is ours else F.interpolate(leaf, SIZE, mode="bilinear")
        value = getattr(library, name)(mode)(full, target)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)
