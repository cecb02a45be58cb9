"""DeepLabV3+'s decoder, multiplied before it resizes and after: the same function."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastseg.models.deeplabv3 import DeepLabV3PlusDecoder
from fastseg.testing import relative_error


def _decoder() -> DeepLabV3PlusDecoder:
    torch.manual_seed(0)
    decoder = DeepLabV3PlusDecoder([3, 8, 12, 16, 24, 32], 64, (2, 3, 4), True, 0.0).double()
    for module in decoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias)
    return decoder


def _features() -> list[torch.Tensor]:
    maps = [torch.empty(0)] * 6
    maps[2], maps[-1] = torch.randn(2, 12, 24, 36), torch.randn(2, 32, 6, 9)
    return [m.double().requires_grad_() for m in maps]


@pytest.mark.parametrize("training", [True, False])
def test_either_way(training: bool) -> None:
    """Without gradients the norm is folded; what has a hook is called itself."""
    decoder, features, calls = _decoder(), _features(), []
    leaves = [features[2], features[-1], *decoder.parameters()]

    def results() -> list[torch.Tensor]:
        decoder.train(training)
        out = decoder(features)
        gradients = torch.autograd.grad(out, leaves, torch.cos(out.detach()))
        with torch.no_grad():
            return [out, *gradients, decoder.eval()(features)]

    fused = results()
    decoder.block2[0].register_forward_hook(lambda *call: calls.append(call[1][0].shape))
    for name, buffer in _decoder().named_buffers():  # a step of training changed them
        decoder.get_buffer(name).copy_(buffer)
    expected = results()
    assert calls == [(2, 112, 24, 36)] * 2  # the map that the first way never builds
    assert max(map(relative_error, fused, expected)) <= 1e-12
