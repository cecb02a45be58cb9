"""Branches as one call: what joins, with which numbers, and what stays apart."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastseg
from fastseg.nn import ASPP, Chain, branches, conv


def scrambled(module: nn.Module) -> nn.Module:
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.2, 2.0)
    return module.double().eval()


def aspp() -> ASPP:
    return scrambled(ASPP(6, 4, (2, 3, 20)))


@pytest.fixture
def one_call(monkeypatch):
    """As on a GPU. The list holds the arguments of the joint calls."""
    calls = []
    real = branches.conv_branches

    def recorded(*args):
        calls.append(args)
        return real(*args)

    monkeypatch.setattr(branches, "is_one_call", lambda x: not torch.is_grad_enabled())
    monkeypatch.setattr(branches, "conv_branches", recorded)
    return calls


@torch.no_grad()
@pytest.mark.parametrize("fused", (False, True))
@pytest.mark.parametrize("backend", (None, "reference"))
def test_the_same_as_one_after_the_other(fused, backend, one_call):
    module, x = aspp(), torch.randn(2, 6, 9, 11).double()
    with torch.enable_grad():
        expected = module(x)
    assert one_call == []
    if fused:
        module = fastseg.fuse(module)
    with fastseg.use_backend(backend):
        torch.testing.assert_close(module(x), expected)
    ((_, weights, dilations, scale, shift),) = one_call
    assert [tuple(w.shape[2:]) for w in weights] == [(1, 1), (3, 3), (3, 3), (3, 3)]
    assert dilations == [1, 2, 3, 20]
    assert (scale is None) == fused and shift.shape == (16,)


@torch.no_grad()
def test_what_is_something_else_runs_one_after_the_other(one_call):
    def convolution(**changes):
        return nn.Conv2d(6, 4, **{"kernel_size": 3, "padding": 2, "dilation": 2, **changes})

    def chain(module: nn.Module, act: type[nn.Module] = nn.ReLU) -> Chain:
        return Chain(module, nn.BatchNorm2d(4), act())

    plain = [chain(convolution()), chain(convolution(padding=6, dilation=6))]
    hooked = chain(convolution())
    hooked.register_forward_hook(lambda *call: None)
    x = torch.randn(2, 6, 9, 10).double()
    for other in (
        chain(convolution(padding_mode="reflect")),
        chain(convolution(groups=2)),
        chain(convolution(kernel_size=(3, 5), padding=(2, 4))),
        chain(convolution(dilation=(1, 2), padding=(1, 2))),
        chain(convolution(), nn.ReLU6),
        hooked,
        Chain(convolution(), nn.ReLU()),
    ):
        modules = nn.ModuleList([*copy.deepcopy(plain), other])
        scrambled(modules)
        expected = torch.cat([nn.Sequential.forward(m, x) for m in modules], 1)
        torch.testing.assert_close(branches.run_branches(x, list(modules)), expected)
    # A kernel that is not square joins as well; the other six do not.
    assert len(one_call) == 1


@torch.no_grad()
@pytest.mark.parametrize("act", (nn.ReLU, nn.ReLU6))
def test_a_dilated_convolution_and_its_activation_are_one_call(act, monkeypatch):
    calls = []
    real = conv.conv_branches
    monkeypatch.setattr(conv, "is_one_call", lambda x: True)
    monkeypatch.setattr(conv, "conv_branches", lambda *args: calls.append(args) or real(*args))
    layers = scrambled(
        Chain(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            act(),
            nn.Conv2d(8, 4, (3, 1), padding=(4, 0), dilation=4),
            nn.BatchNorm2d(4),
            act(),
            nn.Conv2d(4, 4, 3, stride=2, padding=2, dilation=2),
            nn.BatchNorm2d(4),
            act(),
        )
    )
    x = torch.randn(2, 3, 9, 10).double()
    expected = nn.Sequential.forward(layers, x)
    for module in (layers, fastseg.fuse(layers)):
        torch.testing.assert_close(module(x), expected)
    assert len(calls) == 2
    assert {c[-1] for c in calls} == {6.0 if act is nn.ReLU6 else float("inf")}


def test_not_where_gradients_are_recorded_or_on_a_cpu():
    x = torch.randn(1, 2, 3, 3)
    assert not conv.is_one_call(x)
    with torch.no_grad():
        assert not conv.is_one_call(x)
