"""Benchmarks of the losses of fastseg.nn beside those of smp and mmsegmentation.

Theirs are of upsampled logits, eager in both memory formats, and compiled. A run is the loss and
its gradient. Each pair of losses is compared before anything is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from race import FORMATS, race

from fastseg import nn as ours
from fastseg.bench.cases import as_word
from fastseg.bench.timing import Variant
from fastseg.testing.peers import declare_torchvision_ops

Loss = Callable[[torch.Tensor], torch.Tensor]

# Of _workloads().
NAMES = (
    "CE + Dice N4 C21 129->513",
    "CE + Dice N1 C150 128->512",
    "BCE + Dice binary N8 C1 uint8",
    "BCE + Dice multilabel N4 C21 uint8",
    "focal",
    "OHEM",
    "distillation",
    "CE alone N4 C21 129->513",
    "CE alone N1 C150 128->512",
)


def _objects(n: int, classes: int, size: int) -> torch.Tensor:
    """Label maps whose classes are squares of 16 pixels, 3 % of the pixels ignored."""
    few = torch.randint(0, classes, (n, size // 16 + 1, size // 16 + 1))
    target = few.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :size, :size].contiguous()
    return target.masked_fill_(torch.rand(target.shape) < 0.03, 255)


def _ohem(full: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """mmsegmentation's sampler and its mean over the kept pixels."""
    loss = F.cross_entropy(full, target, ignore_index=255, reduction="none")
    with torch.no_grad():
        counted = target != 255
        p = full.softmax(1).gather(1, target.where(counted, 0)[:, None])[:, 0]
        lowest = p[counted].sort().values
        kept = counted & (p < max(0.7, float(lowest[100_000])))
    return (loss * kept).sum() / kept.sum()


def _distillation(full: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    q = F.interpolate(teacher, full.shape[2:], mode="bilinear").div(2.0).softmax(1)
    pixels = full.shape[0] * full.shape[2] * full.shape[3]
    return F.kl_div(full.div(2.0).log_softmax(1), q, reduction="sum") * 4.0 / pixels


def _workloads() -> Iterator[tuple[str, torch.Tensor, Loss, Loss]]:
    """Name, logits, our loss and the peer's of low-resolution logits."""
    declare_torchvision_ops()
    smp = pytest.importorskip("segmentation_models_pytorch").losses

    def upsampled(size: int, loss: Callable[..., torch.Tensor], *args: Any) -> Loss:
        return lambda z: loss(F.interpolate(z, (size, size), mode="bilinear"), *args)

    def with_cross_entropy(full: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        dice = smp.DiceLoss("multiclass", ignore_index=255)
        return F.cross_entropy(full, target, ignore_index=255) + dice(full, target)

    for n, classes, low, size in ((4, 21, 129, 513), (1, 150, 128, 512)):
        target = _objects(n, classes, size)
        both = ours.CombinedLoss(ce=1, dice=1, ignore_index=255)
        logits = torch.randn(n, classes, low, low)
        name = f"CE + Dice N{n} C{classes} {low}->{size}"
        peer = upsampled(size, with_cross_entropy, target)
        yield name, logits, lambda z, t=target, loss=both: loss(z, t), peer
    for mode, shape, size in (
        ("binary", (8, 1, 128, 128), 512),
        ("multilabel", (4, 21, 129, 129), 513),
    ):
        mask = (torch.rand(*shape[:2], size, size) < 0.3).to(torch.uint8)
        joint = ours.CombinedLoss(mode, bce=1, dice=1)
        dice = smp.DiceLoss(mode)

        def peer_of(full: torch.Tensor, target: torch.Tensor, dice: Any = dice) -> torch.Tensor:
            wide = target.float()
            return F.binary_cross_entropy_with_logits(full, wide) + dice(full, wide)

        yield (
            f"BCE + Dice {mode} N{shape[0]} C{shape[1]} uint8",
            torch.randn(shape),
            lambda z, t=mask, loss=joint: loss(z, t),
            upsampled(size, peer_of, mask),
        )
    target = _objects(4, 21, 513)
    logits, teacher = torch.randn(4, 21, 129, 129), torch.randn(4, 21, 129, 129)
    focal, peer_focal = (
        ours.FocalLoss(ignore_index=255),
        smp.FocalLoss("multiclass", ignore_index=255),
    )
    yield "focal", logits, lambda z: focal(z, target), upsampled(513, peer_focal, target)
    hard = ours.OhemCrossEntropy()
    yield "OHEM", logits, lambda z: hard(z, target), upsampled(513, _ohem, target)
    distilled = ours.DistillationLoss(2.0)
    yield (
        "distillation",
        logits,
        lambda z: distilled(z, teacher, (513, 513)),
        upsampled(513, _distillation, teacher),
    )
    ce = ours.UpsampleCrossEntropy(ignore_index=255)
    plain = lambda full, t: F.cross_entropy(full, t, ignore_index=255)  # noqa: E731
    yield "CE alone N4 C21 129->513", logits, lambda z: ce(z, target), upsampled(513, plain, target)
    wide, wide_target = torch.randn(1, 150, 128, 128), _objects(1, 150, 512)
    yield (
        "CE alone N1 C150 128->512",
        wide,
        lambda z: ce(z, wide_target),
        upsampled(512, plain, wide_target),
    )


def _step(loss: Loss, logits: torch.Tensor, _: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and its gradient."""
    leaf = logits.detach().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize("name", NAMES, ids=as_word)
def test_losses(
    name: str, benchmark: Any, say: Callable[[str], None], pytestconfig: pytest.Config
) -> None:
    torch.manual_seed(0)
    logits, loss, peer = next(rest for found, *rest in _workloads() if found == name)
    (value, grad), (expected, expected_grad) = _step(loss, logits), _step(peer, logits)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)
    difference = (grad - expected_grad).norm() / expected_grad.norm()
    assert difference < 1e-2, f"the gradients differ by {difference}"
    variants = []
    for layout, memory_format in FORMATS.items():
        given = logits.contiguous(memory_format=memory_format)
        variants += [
            Variant(f"fastseg {layout}", functools.partial(_step, loss, given)),
            Variant(f"eager {layout}", functools.partial(_step, peer, given)),
        ]
    quick = pytestconfig.getoption("--quick")
    if not (quick or pytestconfig.getoption("--no-compile")):
        compiled = torch.compile(peer, dynamic=False)
        variants.append(Variant("torch.compile", functools.partial(_step, compiled, logits)))
        variants[-1].run(None)
    race(
        name,
        variants,
        peer="eager",
        device="cpu",
        budget_s=1.0 if quick else 12.0,
        group="losses",
        benchmark=benchmark,
        say=say,
    )
