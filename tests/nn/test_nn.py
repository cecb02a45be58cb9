"""Modules of fastseg.nn against the same in plain PyTorch, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastseg.nn import (
    ASPP,
    Chain,
    ClassificationHead,
    DilatedConv2d,
    PyramidPooling,
    UpsampleCrossEntropy,
    make_activation,
    make_norm,
)
from fastseg.nn.conv import convolve_and_clamp

FORMATS = (torch.contiguous_format, torch.channels_last)
each_format = pytest.mark.parametrize("memory_format", FORMATS)


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    truth = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(parameter.grad, truth[name].grad, msg=name)


def chain(activation: type[nn.Module] = nn.ReLU) -> Chain:
    return Chain(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(inplace=True),
        Chain(DilatedConv2d(8, 8, 3, padding=2, dilation=2, groups=8, bias=False)),
        nn.BatchNorm2d(8),
        activation(),
        nn.Conv2d(8, 6, 3, stride=2, bias=True),
        nn.BatchNorm2d(6),
    ).double()


@each_format
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.Hardswish])
@pytest.mark.parametrize("training", [True, False])
def test_chain(training: bool, activation: type[nn.Module], memory_format: torch.memory_format):
    ours = chain(activation).train(training)
    plain = nn.Sequential(*copy.deepcopy(ours))
    x = (3 * torch.randn(2, 3, 9, 12, dtype=torch.float64)).contiguous(memory_format=memory_format)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    results = [module(y) for module, y in zip((ours, plain), inputs, strict=True)]
    torch.testing.assert_close(*results)
    direction = torch.randn_like(results[0])
    for result in results:
        result.backward(direction)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    assert_same_gradients(ours, plain)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x))
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], msg=name)


def test_chain_keeps_half_of_the_maps() -> None:
    def kept(module: nn.Module) -> int:
        storages = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            result = module(x)
        storages.pop(x.untyped_storage().data_ptr(), None)
        del result
        return sum(storages.values())

    layers = []
    for _ in range(4):
        layers += [
            nn.Conv2d(8, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
        ]
    x = torch.randn(2, 8, 64, 64)
    assert kept(Chain(*layers)) < 0.7 * kept(nn.Sequential(*layers))


CONVOLUTIONS = {
    "dense, stride 2": nn.Conv2d(12, 10, 3, stride=2, padding=1),
    "two groups": nn.Conv2d(12, 6, 3, groups=2),
    "depthwise": DilatedConv2d(12, 12, 3, padding=1, groups=12),
    "depthwise, rate 2": DilatedConv2d(12, 12, 3, padding=2, dilation=2, groups=12, bias=False),
    "depthwise, rates 2 and 1": DilatedConv2d(
        12, 12, 3, padding=(2, 1), dilation=(2, 1), groups=12
    ),
    "depthwise, rate 5": DilatedConv2d(12, 12, 3, padding=5, dilation=5, groups=12),
    "two channels out of each": DilatedConv2d(12, 24, 3, padding=1, groups=12),
    "dilated": DilatedConv2d(12, 5, 3, padding=2, dilation=2),
}


@each_format
@pytest.mark.parametrize("limit", [6.0, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_convolution_and_clamp(
    name: str, dtype: torch.dtype, limit: float, memory_format: torch.memory_format
) -> None:
    """Where oneDNN joins the two and where it does not: against float64, at most twice the error of
    the two one after the other."""
    convolution = copy.deepcopy(CONVOLUTIONS[name]).to(dtype)
    nn.init.normal_(convolution.weight)
    x = (3 * torch.randn(2, 12, 9, 11)).to(dtype).contiguous(memory_format=memory_format)
    weight, bias = convolution.weight, convolution.bias
    result = convolve_and_clamp(convolution, x, weight, bias, limit)
    options = convolution.stride, convolution.padding, convolution.dilation, convolution.groups
    b = None if bias is None else bias.double()
    truth = F.conv2d(x.double(), weight.double(), b, *options).clamp(0.0, limit)
    plain = F.conv2d(x, weight, bias, *options).clamp(0.0, limit)
    assert result.dtype is dtype and result.shape == truth.shape
    assert result.is_contiguous(memory_format=memory_format)
    errors = [(y.double() - truth).abs().max().item() for y in (result, plain)]
    assert errors[0] <= 2 * errors[1]


def test_chain_under_autocast() -> None:
    ours = chain().float()
    plain = nn.Sequential(*copy.deepcopy(ours))
    x = torch.randn(2, 3, 16, 16)
    for module in (ours, plain):
        with torch.autocast("cpu", torch.bfloat16):
            result = module(x)
        assert result.dtype is torch.bfloat16
        result.float().square().mean().backward()
    for (name, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert one.grad.dtype is torch.float32
        torch.testing.assert_close(one.grad, other.grad, rtol=0.1, atol=0.02, msg=name)


def test_chain_does_not_fold_what_it_must_not() -> None:
    """Norms without parameters, hooks, frozen parameters."""
    module = Chain(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Conv2d(4, 4, 1)
    )
    calls: list[str] = []
    hooked = chain().eval()
    hooked[1].register_forward_hook(lambda *_: calls.append("norm"))
    with torch.no_grad():
        x = torch.randn(1, 3, 8, 8)
        torch.testing.assert_close(module.eval()(x), nn.Sequential(*module)(x))
        hooked(x.double())
    assert calls == ["norm"]
    frozen = chain()
    frozen[0].requires_grad_(False)
    frozen[1].requires_grad_(False)
    frozen[3][0].requires_grad_(False)
    plain = nn.Sequential(*copy.deepcopy(frozen))
    for m in (frozen, plain):
        m(torch.randn(2, 3, 9, 9, generator=torch.manual_seed(1)).double()).sum().backward()
    for one, other in zip(frozen.parameters(), plain.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)


@each_format
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("input_first", [True, False])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(12, 7), (4, 9)])  # the second is coarser than the grid of 6
def test_pyramid_convolution_without_the_concatenation(
    size: tuple[int, int],
    align_corners: bool,
    input_first: bool,
    kernel_size: int,
    memory_format: torch.memory_format,
) -> None:
    pyramid = PyramidPooling(
        8, 3, norm_of_one=False, input_first=input_first, align_corners=align_corners
    ).double()
    convolution = nn.Conv2d(20, 5, kernel_size, padding=kernel_size // 2).double()
    x = torch.randn(2, 8, *size).double().contiguous(memory_format=memory_format).requires_grad_()
    branches = [
        F.interpolate(
            block.pool(x), x.shape[2:], mode="bilinear", align_corners=pyramid.align_corners
        )
        for block in copy.deepcopy(pyramid).blocks
    ]
    expected = torch.cat([x, *branches] if input_first else [*branches, x], dim=1)
    torch.testing.assert_close(copy.deepcopy(pyramid)(x), expected)
    truth = convolution(expected)
    direction = torch.randn_like(truth)
    wanted = [x, convolution.weight, convolution.bias]
    expected_grads = torch.autograd.grad(truth, wanted, direction)
    result = pyramid.run(x, [convolution])
    torch.testing.assert_close(result, truth)
    assert result.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(torch.autograd.grad(result, wanted, direction), expected_grads)


@each_format
@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_aspp(training: bool, separable: bool, memory_format: torch.memory_format) -> None:
    ours = ASPP(6, 4, (2, 3, 20), separable, dropout=0.0).double().train(training)
    plain = copy.deepcopy(ours)
    x = torch.randn(2, 6, 9, 11).double().contiguous(memory_format=memory_format)

    def composition(x: torch.Tensor) -> torch.Tensor:
        *branches, pooling = plain.convs
        pooled = nn.Sequential(*list(pooling))(x).expand(-1, -1, *x.shape[2:])
        maps = [nn.Sequential(*list(branch))(x) for branch in branches]
        return nn.Sequential(*list(plain.project))(torch.cat([*maps, pooled], dim=1))

    shapes = []
    ours.convs[-1][-1].register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    result, expected = ours(x), composition(x)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=memory_format)
    assert shapes == [(2, 4, 1, 1)]  # never a map
    direction = torch.randn_like(result)
    result.backward(direction)
    expected.backward(direction)
    assert_same_gradients(ours, plain)


def test_aspp_of_one_image() -> None:
    aspp, x = ASPP(4, 2, (1, 2, 3)), torch.randn(1, 4, 5, 5)
    with pytest.raises(ValueError, match=r"x holds one image.*larger batch"):
        aspp(x)
    aspp.convs[-1].eval()  # the way round that the message names
    aspp(x).sum().backward()
    with pytest.raises(ValueError, match="rates is"):
        ASPP(4, 2, (1, 2))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_loss(reduction: str) -> None:
    weight = torch.rand(4).double()
    loss = UpsampleCrossEntropy(weight, 9, reduction, label_smoothing=0.2, align_corners=True)
    logits, target = torch.randn(2, 4, 3, 5).double(), torch.randint(0, 4, (2, 9, 11))
    target[0, :4] = 9
    full = F.interpolate(logits, (9, 11), mode="bilinear", align_corners=True)
    expected = nn.CrossEntropyLoss(
        weight, ignore_index=9, reduction=reduction, label_smoothing=0.2
    )(full, target)
    torch.testing.assert_close(loss(logits, target), expected)
    assert loss.float().weight.dtype is torch.float32


def test_heads_and_norms() -> None:
    x = torch.randn(2, 6, 4, 4)
    head = ClassificationHead(6, 3, "max", None, "softmax")
    assert torch.allclose(head(x).sum(1), torch.ones(2))
    assert isinstance(make_activation(nn.Sigmoid), nn.Sigmoid)
    with pytest.raises(ValueError, match="activation is 'swish', allowed are 'identity'"):
        make_activation("swish")
    with pytest.raises(ValueError, match="pooling is 'sum'"):
        ClassificationHead(6, 3, "sum")
    assert make_norm({"type": "batchnorm", "eps": 0.1}, 6).eps == 0.1
    assert isinstance(make_norm(False, 6), nn.Identity)
    y = make_norm("instancenorm", 6)(x.contiguous(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="norm is 'layernorm'"):
        make_norm("layernorm", 6)
