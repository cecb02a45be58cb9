"""DeepLab v2 of kazuto1011's deeplab-pytorch, written here under the names of its files."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.models import DeepLabV2, export_checkpoint
from fastseg.testing import relative_error

CLASSES = 3
BLOCKS = (3, 4, 6, 3)  # of a ResNet-50: the file's names tell the depth


def conv_bn(channels: int, out: int, kernel: int, stride: int = 1, rate: int = 1) -> nn.Module:
    padding = 3 if kernel == 7 else rate * (kernel // 2)
    convolution = nn.Conv2d(channels, out, kernel, stride, padding, rate, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(out)))


class Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int, rate: int, first: bool) -> None:
        super().__init__()
        self.reduce = conv_bn(channels, out // 4, 1, stride)
        self.conv3x3 = conv_bn(out // 4, out // 4, 3, 1, rate)
        self.increase = conv_bn(out // 4, out, 1)
        if first:
            self.shortcut = conv_bn(channels, out, 1, stride)
        self.first = first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.increase(self.conv3x3(self.reduce(x).relu()).relu())
        return (y + (self.shortcut(x) if self.first else x)).relu()


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for index, rate in enumerate((6, 12, 18, 24)):
            self.add_module(f"c{index}", nn.Conv2d(2048, CLASSES, 3, 1, rate, rate))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(branch(x) for branch in self.children())


class Base(nn.Module):
    """At one scale."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(OrderedDict(conv1=conv_bn(3, 64, 7, 2)))
        channels = 64
        for index, (count, stride, rate) in enumerate(
            zip(BLOCKS, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            out = 256 << index
            blocks = OrderedDict()
            for position in range(count):
                first = position == 0
                blocks[f"block{position + 1}"] = Block(
                    channels, out, stride if first else 1, rate, first
                )
                channels = out
            self.add_module(f"layer{index + 2}", nn.Sequential(blocks))
        self.aspp = Scores()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(self.layer1(x).relu(), 3, 2, 1, ceil_mode=True)
        return self.aspp(self.layer5(self.layer4(self.layer3(self.layer2(x)))))


class Pyramid(nn.Module):
    """At three scales; in training all of them, and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.base = Base()

    def forward(self, x: torch.Tensor) -> Any:
        scores = self.base(x)
        scaled = [
            self.base(F.interpolate(x, scale_factor=scale, mode="bilinear"))
            for scale in (0.5, 0.75)
        ]
        size = scores.shape[2:]
        all_sizes = [F.interpolate(s, size, mode="bilinear") for s in scaled]
        largest = torch.stack([scores, *all_sizes]).amax(0)
        return [scores, *scaled, largest] if self.training else largest


@pytest.fixture(scope="module")
def theirs() -> Pyramid:
    torch.manual_seed(0)
    net = Pyramid()
    for module in net.modules():  # as of a trained network: the values keep their size
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.4, 0.8)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for branch in net.base.aspp.children():
        nn.init.normal_(branch.weight, 0.0, 0.01)
    return net.double().eval()


@pytest.mark.parametrize("size", [(41, 57), (48, 40)], ids=str)
def test_scores_of_all_scales_and_their_maximum(theirs: Pyramid, size: tuple[int, int]) -> None:
    ours = fastseg.load_checkpoint(theirs.state_dict()).double()
    assert isinstance(ours, DeepLabV2)
    assert len(ours.classes) == CLASSES and ours.scales == (0.5, 0.75)
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        largest = theirs(x)
        assert relative_error(ours.coarse_logits(x), largest) <= 1e-10
        full = F.interpolate(largest, size, mode="bilinear")
        assert relative_error(ours(x), full) <= 1e-10
        assert torch.equal(ours.predict_labels(x).long(), full.argmax(1))
        main, others = ours.training_logits(x)
        theirs.train()
        for module in theirs.modules():  # which trains with the statistics as they are
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        expected = theirs(x)
        theirs.eval()
    assert len(others) == 3
    for mine, given in zip([*others, main], expected, strict=True):
        assert relative_error(mine, given) <= 1e-10


def test_gradients(theirs: Pyramid) -> None:
    ours = fastseg.load_checkpoint(theirs.state_dict()).double()
    x = torch.randn(1, 3, 33, 41, dtype=torch.float64)
    theirs.zero_grad()
    loss = sum(s.square().mean() for s in (theirs(x), theirs.base(x)))
    loss.backward()
    main, (first, *_) = ours.training_logits(x)
    (main.square().mean() + first.square().mean()).backward()
    expected = fastseg.load_checkpoint(
        {name: p.grad for name, p in theirs.named_parameters()}
        | {n: b for n, b in theirs.named_buffers()}
    )
    truth = dict(expected.double().named_parameters())
    for name, parameter in ours.named_parameters():
        # The gradients went through float32 on their way into the model.
        assert relative_error(parameter.grad, truth[name]) <= 1e-6, name


def test_without_the_wrapper(theirs: Pyramid) -> None:
    ours = fastseg.load_checkpoint(theirs.base.state_dict(), scales=()).double()
    x = torch.randn(1, 3, 33, 41, dtype=torch.float64)
    with torch.no_grad():
        assert relative_error(ours.coarse_logits(x), theirs.base(x)) <= 1e-10


def test_strictly_and_back_again(theirs: Pyramid) -> None:
    given = theirs.float().state_dict()
    try:
        ours = fastseg.load_checkpoint(given)
        written = export_checkpoint(ours, "kazuto-deeplabv2")
        assert written.keys() == given.keys()
        assert all(torch.equal(written[name], value) for name, value in given.items())
        theirs.load_state_dict(written)
        some = {k: v for k, v in given.items() if k != "base.layer4.block2.conv3x3.conv.weight"}
        with pytest.raises(ValueError, match=r"missing: encoder\.layer3\.1\.conv2\.weight"):
            fastseg.load_checkpoint(some)
        with pytest.raises(ValueError, match=r"unused: base\.aspp\.more"):
            fastseg.load_checkpoint({**given, "base.aspp.more": torch.ones(1)})
    finally:
        theirs.double()


def test_what_the_library_computes_differently_is_not_exported() -> None:
    model = DeepLabV2("resnet50", encoder_weights=None, classes=2)
    with pytest.raises(ValueError, match=r"family is 'caffe', allowed are smp-deeplabv3plus, .*"):
        export_checkpoint(model, "caffe")
    with pytest.raises(ValueError, match="torchvision-fcn from a DeepLabV2: it holds a FCN"):
        export_checkpoint(model, "torchvision-fcn")
    with pytest.raises(ValueError, match=r"kazuto-deeplabv2 .*stride_first"):
        export_checkpoint(model, "kazuto-deeplabv2")
