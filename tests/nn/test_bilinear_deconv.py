"""BilinearDeconv2d: the transposed convolution's function, however it is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.nn import BilinearDeconv2d, bilinear_kernel, deconv
from fastseg.testing import relative_error


@pytest.fixture
def upsampled(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The scales of the maps that are upsampled instead of convolved."""
    scales = []
    original = deconv.upsample_with_ring

    def counted(x: torch.Tensor, scale: int) -> torch.Tensor:
        scales.append(scale)
        return original(x, scale)

    monkeypatch.setattr(deconv, "upsample_with_ring", counted)
    return scales


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 8, 16, 32])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (5, 3)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_is_the_transposed_convolution(
    scale: int, size: tuple[int, int], depthwise: bool, upsampled: list[int]
) -> None:
    layer = BilinearDeconv2d(3, scale, groups=3 if depthwise else 1).double()
    layer.reset_parameters()  # rounded to float64, not to float32
    x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    expected = F.conv_transpose2d(x, layer.weight, stride=scale, groups=layer.groups)
    result = layer.requires_grad_(False)(x)
    assert upsampled == [scale]
    assert result.shape == expected.shape
    assert relative_error(result, expected) <= 1e-12  # to the border, where zeros come in
    direction = torch.randn_like(expected)
    grads = [torch.autograd.grad(y, x, direction)[0] for y in (result, expected)]
    assert relative_error(*grads) <= 1e-12


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_one_function_three_ways(scale: int) -> None:
    """Interpolation, convolution of the map with zeros between its values, transposed."""
    x = torch.randn(1, 1, 4, 5, dtype=torch.float64)
    kernel = bilinear_kernel(scale)
    transposed = F.conv_transpose2d(x, kernel[None, None], stride=scale)
    size = kernel.shape[0]
    spread = x.new_zeros(1, 1, 3 * scale + 1, 4 * scale + 1)
    spread[:, :, ::scale, ::scale] = x
    convolved = F.conv2d(spread, kernel.flip(0, 1)[None, None], padding=size - 1)
    torch.testing.assert_close(convolved, transposed)
    ringed = F.interpolate(F.pad(x, (1, 1, 1, 1)), scale_factor=scale, mode="bilinear")
    first = (scale + 1) // 2
    height, width = transposed.shape[2:]
    torch.testing.assert_close(
        ringed[:, :, first : first + height, first : first + width], transposed
    )
    # Inside, from the first to the last value of the map, no ring is needed.
    plain = F.interpolate(x, scale_factor=scale, mode="bilinear")
    inner = slice(scale // 2, -(scale // 2))
    more = scale - first  # of the map in front of the ring
    torch.testing.assert_close(
        plain[:, :, inner, inner],
        transposed[:, :, more:, more:][:, :, : 4 * scale, : 5 * scale][:, :, inner, inner],
    )


def _one_off_diagonal(layer: BilinearDeconv2d) -> None:
    layer.weight.data[0, 1, 2, 2] = 1e-3


def _one_on_diagonal(layer: BilinearDeconv2d) -> None:
    layer.weight.data[1, 1, 0, 0] += 1e-3


def _trained(layer: BilinearDeconv2d) -> None:
    with torch.no_grad():
        layer.weight.add_(torch.randn_like(layer.weight))


def _scaled(layer: BilinearDeconv2d) -> None:
    layer.weight.data.mul_(1.001)


def _not_a_number(layer: BilinearDeconv2d) -> None:
    layer.weight.data[0, 0, 0, 0] = float("nan")


def _parametrized(layer: BilinearDeconv2d) -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    nn.utils.parametrize.register_parametrization(layer, "weight", Twice())


@pytest.mark.parametrize(
    "change",
    [_one_off_diagonal, _one_on_diagonal, _trained, _scaled, _not_a_number, _parametrized],
)
def test_another_weight_is_convolved(
    change: Callable[[BilinearDeconv2d], None], upsampled: list[int]
) -> None:
    """Also one that changes between two calls, without PyTorch's noticing."""
    layer, x = BilinearDeconv2d(3, 4).requires_grad_(False), torch.randn(1, 3, 3, 4)
    layer(x)
    change(layer)
    expected = F.conv_transpose2d(x, layer.weight, stride=4)
    torch.testing.assert_close(layer(x), expected, equal_nan=True)
    assert upsampled == [4]


def test_the_weight_is_trained_from_the_bilinear_kernel() -> None:
    layer, x = BilinearDeconv2d(2, 2), torch.randn(1, 2, 5, 6)
    plain = nn.ConvTranspose2d(2, 2, 4, 2, bias=False)
    plain.load_state_dict(layer.state_dict())
    for module in (layer, plain):
        module(x).square().mean().backward()
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(x))


def test_buffers_copies_dtypes_and_graphs(upsampled: list[int]) -> None:
    layer = BilinearDeconv2d(2, 4, learned=False)
    assert list(layer.parameters()) == [] and list(layer.state_dict()) == ["weight"]
    x = torch.randn(1, 2, 3, 4)
    truth = layer(x)
    for other in (copy.deepcopy(layer), layer.to("meta").to_empty(device="cpu")):
        other.load_state_dict(BilinearDeconv2d(2, 4).state_dict())
        assert torch.equal(other(x), truth)
    layer = BilinearDeconv2d(2, 4, learned=False)
    half = copy.deepcopy(layer).bfloat16()(x.bfloat16())
    assert half.dtype is torch.bfloat16
    assert relative_error(half.float(), truth) < 1e-2
    assert set(upsampled) == {4} and len(upsampled) == 4
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), truth)
    channels_last = layer(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(channels_last, truth)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((3, 1), "scale is 1, expected at least 2"),
        ((0, 2), "channels is 0"),
        ((4, 2, 2), "groups is 2"),
    ],
)
def test_arguments_out_of_range(arguments: tuple[int, ...], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        fastseg.nn.BilinearDeconv2d(*arguments)
