"""Targets of one class beside ignored pixels, as masks of 0 and 255 are, are warned about once."""

from __future__ import annotations

import copy
import pickle
import time
import warnings

import pytest
import torch

import fastseg
from fastseg.nn.target_watch import trust_targets, watch_targets

MASK = torch.zeros(2, 32, 32, dtype=torch.int64)
MASK[:, 8:20, 8:20] = 1


def model(classes: int = 2) -> fastseg.PSPNet:
    return fastseg.PSPNet(
        "mobilenet_v2", encoder_weights=None, psp_out_channels=8, classes=classes
    ).eval()


def loss(net: fastseg.PSPNet, target: torch.Tensor, **options: object) -> torch.Tensor:
    return net.loss(torch.zeros(2, 3, 32, 32), target, **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_a_mask_of_0_and_255(classes: int, dtype: torch.dtype) -> None:
    net = model(classes)
    with pytest.warns(UserWarning, match=r"class 0, and the others \(14 %\) are 255.*== 255"):
        assert loss(net, (255 * MASK).to(dtype)).isfinite()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(net, (255 * MASK).to(dtype))  # once for each model


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (MASK, {}),
        (torch.zeros_like(MASK), {}),  # one class, nothing ignored
        (torch.where(MASK == 1, 255, torch.arange(32) % 2), {}),  # two classes
        (torch.full_like(MASK, 255), {}),  # nothing counts
        (255 * MASK[:, :0], {}),
    ],
    ids=["two classes", "one class", "two and ignored", "all ignored", "empty"],
)
def test_targets_that_are_fine(target: torch.Tensor, options: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch_targets(torch.nn.Identity(), target, 255)


@pytest.mark.parametrize("ignore_index", [-100, 1, 2**40, -1])
def test_any_ignored_value_and_any_class(ignore_index: int) -> None:
    target = torch.where(MASK == 1, ignore_index, 7)
    with pytest.warns(UserWarning, match=f"class 7, and the others .* are {ignore_index}, which"):
        watch_targets(torch.nn.Identity(), target, ignore_index)


def test_padding_is_not_counted() -> None:
    """37 x 37 pixels are padded with ignored ones; the target alone has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model().loss(torch.zeros(1, 3, 37, 37), torch.zeros(1, 37, 37, dtype=torch.int64))


def test_models_are_copied_pickled_and_compiled_as_before() -> None:
    net = model()
    with pytest.warns(UserWarning, match="class 0"):
        loss(net, 255 * MASK)
    other = pickle.loads(pickle.dumps(copy.deepcopy(net)))
    assert net.state_dict().keys() == other.state_dict().keys()

    class Loss(torch.nn.Module):
        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            watch_targets(self, target, 255)
            return x.sum() + target.sum()

    compiled = torch.compile(Loss(), backend="eager", fullgraph=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(torch.zeros(3), 255 * MASK)
        torch.func.vmap(Loss())(torch.zeros(2, 3), 255 * MASK)


def test_a_compiled_loss_does_not_depend_on_other_models() -> None:
    class Loss(torch.nn.Module):
        def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            watch_targets(self, target, 255)
            return x.sum() + target.sum()

    others = [torch.nn.Identity() for _ in range(3)]
    for other in others[:2]:
        trust_targets(other)
    compiled = torch.compile(Loss(), backend="eager", fullgraph=True)
    compiled(torch.zeros(3), MASK)
    trust_targets(others.pop())
    del others, other
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(torch.zeros(3), MASK)


def test_targets_that_are_trusted() -> None:
    net = torch.nn.Identity()
    trust_targets(net)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch_targets(net, 255 * MASK, 255)


def test_it_costs_nothing_after_the_first_call() -> None:
    net, target = torch.nn.Identity(), MASK
    watch_targets(net, target, 255)
    began = time.perf_counter()
    for _ in range(1000):
        watch_targets(net, target, 255)
    assert time.perf_counter() - began < 0.1  # below 0.1 ms, also on a busy machine


@pytest.mark.gpu
def test_on_a_gpu_it_does_not_wait() -> None:
    net, target = torch.nn.Identity(), (255 * MASK).cuda()
    with torch.cuda.device(target.device):
        torch.cuda.set_sync_debug_mode("error")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                watch_targets(net, target, 255)
                watch_targets(net, target, 255)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        if not caught:
            with pytest.warns(UserWarning, match="class 0"):
                watch_targets(net, target, 255)
