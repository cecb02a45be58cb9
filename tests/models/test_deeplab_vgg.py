"""DeepLab v1 and v2 on VGG-16, written here with PyTorch's layers as their papers have them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.models import DeepLabV1, DeepLabV2, make_encoder
from fastseg.testing import relative_error

COUNTS = (2, 2, 3, 3, 3)


def features(layers: list[nn.Conv2d], x: torch.Tensor, average: bool) -> torch.Tensor:
    """VGG-16 of stride 8: poolings over 3x3, the last two of which keep the size."""
    position = 0
    for stage, count in enumerate(COUNTS):
        rate = 2 if stage == 4 else 1
        for _ in range(count):
            convolution = layers[position]
            x = F.conv2d(x, convolution.weight, convolution.bias, 1, rate, rate).relu()
            position += 1
        x = F.max_pool2d(x, 3, 2 if stage < 3 else 1, 1)
    return F.avg_pool2d(x, 3, 1, 1) if average else x


def scores(branch: nn.Module, x: torch.Tensor, rate: int) -> torch.Tensor:
    first, second, last = (m for m in branch.modules() if isinstance(m, nn.Conv2d))
    y = F.conv2d(x, first.weight, first.bias, 1, rate, rate).relu()
    return last(second(y).relu())


@pytest.mark.parametrize("size", [(33, 41), (40, 50)], ids=str)
@pytest.mark.parametrize("arch", [DeepLabV1, DeepLabV2], ids=lambda cls: cls.__name__)
def test_layer_by_layer(arch: type, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    rates = (12,) if arch is DeepLabV1 else (6, 12, 18, 24)
    model = arch("vgg16", encoder_weights=None, decoder_hidden=8, classes=4).double().eval()
    layers = [m for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    padded = [(side - 2) // 8 * 8 + 9 if side % 8 != 1 else side for side in size]
    if size == (40, 50):
        padded = [40, 56]  # multiples of the stride where the corners do not fit
    image = F.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0]), mode="replicate")
    with torch.no_grad():
        last = features(layers, image, arch is DeepLabV1)
        expected = sum(
            scores(branch, last, rate)
            for branch, rate in zip(model.decoder.branches, rates, strict=True)
        )
        assert relative_error(model.coarse_logits(x), expected) <= 1e-10
        full = F.interpolate(expected, padded, mode="bilinear", align_corners=True)
        assert relative_error(model(x), full[:, :, : size[0], : size[1]]) <= 1e-10
    loaded = fastseg.load_checkpoint(model.state_dict()).double()
    assert type(loaded) is arch
    with torch.no_grad():
        assert relative_error(loaded(x), model(x)) <= 1e-6  # of float32


def test_initial_scores_have_a_small_deviation() -> None:
    model = DeepLabV2("vgg11", encoder_weights=None, decoder_hidden=64, classes=50)
    for branch in model.decoder.branches:
        *_, last = branch
        assert 0.009 < last.weight.std() < 0.011 and not last.bias.any()


def test_poolings_of_two_cannot_become_dilation() -> None:
    with pytest.raises(ValueError, match="its poolings of 2x2 cannot become dilation"):
        make_encoder("vgg11", output_stride=8)
    with pytest.raises(ValueError, match="pool_size is 4, allowed are 2 and 3"):
        make_encoder("vgg11", pool_size=4)
    assert make_encoder("vgg11", pool_size=3, output_stride=16).output_stride == 16
