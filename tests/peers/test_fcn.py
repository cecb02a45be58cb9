"""FCN against torchvision's, mmsegmentation's head, and the paper's on VGG-16, written plainly."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.models import FCN, FCNVGG16
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

SIZES = ((64, 64), (49, 70))


@pytest.fixture(scope="session")
def torchvision() -> Any:
    declare_torchvision_ops()
    return pytest.importorskip("torchvision")


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def assert_same(ours: Any, theirs: Any, size: tuple[int, int], channels: int = 3) -> None:
    """Outputs in both modes, gradients in float64; `theirs` gives a tensor or pair with aux."""
    ours, theirs = without_dropout(ours).double(), without_dropout(theirs).double()
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    target = torch.randint(0, len(ours.classes), (2, *size))
    target[:, 2:5, 3:9] = 255
    for training in (False, True):
        ours.train(training), theirs.train(training)
        truth = theirs(x)
        expected, *others = truth if isinstance(truth, tuple) else (truth,)
        assert relative_error(ours(x), expected) <= 1e-10
    losses = [F.cross_entropy(y, target, ignore_index=255) for y in (expected, *others)]
    theirs.zero_grad()
    loss = losses[0] + ours.auxiliary_weight * sum(losses[1:])
    loss.backward()
    ours.zero_grad()
    result = ours.loss(x, target)
    result.backward()
    assert relative_error(result, loss) <= 1e-10
    left = [p for p in theirs.parameters() if p.grad is not None]
    largest = max(p.grad.norm() for p in left)
    for name, p in ours.named_parameters():
        if p.grad is None:
            continue
        # The tensor of theirs with these values; norms start with the same ones, and have their own
        # gradients.
        partner = next(
            (
                index
                for index, q in enumerate(left)
                if q.shape == p.shape
                and torch.equal(q, p)
                and (q.grad - p.grad).norm() <= 1e-8 * q.grad.norm() + 1e-12 * largest
            ),
            None,
        )
        assert partner is not None, name
        del left[partner]
    assert not any(p.grad.any() for p in left)


class Maps(nn.Module):
    """torchvision's network, its maps in the order of ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> Any:
        maps = self.network(x)
        return (maps["out"], maps["aux"]) if "aux" in maps else maps["out"]


@pytest.mark.parametrize("aux", [False, True])
def test_torchvision(torchvision: Any, aux: bool) -> None:
    make = torchvision.models.segmentation.fcn_resnet50
    theirs = make(weights=None, weights_backbone=None, num_classes=5, aux_loss=aux)
    ours = fastseg.load_checkpoint(theirs.state_dict())
    assert isinstance(ours, FCN) and len(ours.classes) == 5
    assert (ours.auxiliary_head is not None) == aux
    assert_same(ours, Maps(theirs), SIZES[aux])


class MmsegHead(nn.Module):
    """mmsegmentation's FCNHead, by its names."""

    def __init__(self, channels: int, width: int, classes: int, count: int, concat: bool) -> None:
        super().__init__()

        def module(given: int) -> nn.Module:
            layers = {
                "conv": nn.Conv2d(given, width, 3, padding=1, bias=False),
                "bn": nn.BatchNorm2d(width),
                "activate": nn.ReLU(),
            }
            return nn.Sequential(OrderedDict(layers))

        self.convs = nn.Sequential(*(module(width if n else channels) for n in range(count)))
        if concat:
            self.conv_cat = module(channels + width)
        self.conv_seg = nn.Conv2d(width, classes, 1)
        self.concat = concat

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convs(x)
        return self.conv_seg(self.conv_cat(torch.cat([x, y], 1)) if self.concat else y)


class Mmseg(nn.Module):
    """A ResNet dilated to stride 8 with two heads."""

    def __init__(self, torchvision: Any) -> None:
        super().__init__()
        net = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
        del net.fc, net.avgpool
        self.backbone = net
        self.decode_head = MmsegHead(2048, 16, 5, 2, True)
        self.auxiliary_head = MmsegHead(1024, 8, 5, 1, False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        net = self.backbone
        y = net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x)))))))
        logits = self.decode_head(net.layer4(y)), self.auxiliary_head(y)
        first, second = (F.interpolate(m, x.shape[2:], mode="bilinear") for m in logits)
        return first, second


def test_mmsegmentation(torchvision: Any) -> None:
    theirs = Mmseg(torchvision)
    ours = fastseg.load_checkpoint({"state_dict": theirs.state_dict(), "meta": {}})
    assert isinstance(ours, FCN)
    assert_same(ours, theirs, SIZES[1])


class PlainFCN(nn.Module):
    """FCN on a narrow VGG-16, with transposed convolutions, under pytorch-fcn's names."""

    WIDTHS = (4, 4, 6, 6, 8)

    def __init__(self, classes: int, stride: int, at_once: bool = False, bands: int = 3) -> None:
        super().__init__()
        self.stride, self.scales = stride, (0.01, 0.0001) if at_once else (1.0, 1.0)
        channels = bands
        for stage, (count, width) in enumerate(zip((2, 2, 3, 3, 3), self.WIDTHS, strict=True), 1):
            for n in range(1, count + 1):
                padding = 100 if (stage, n) == (1, 1) else 1
                setattr(self, f"conv{stage}_{n}", nn.Conv2d(channels, width, 3, padding=padding))
                channels = width
        self.fc6, self.fc7 = nn.Conv2d(channels, 12, 7), nn.Conv2d(12, 12, 1)
        self.score_fr = nn.Conv2d(12, classes, 1)

        def up(scale: int) -> nn.Module:
            return nn.ConvTranspose2d(classes, classes, 2 * scale, scale, bias=False)

        if stride == 32:
            self.upscore = up(32)
            return
        self.upscore2, self.score_pool4 = up(2), nn.Conv2d(self.WIDTHS[3], classes, 1)
        if stride == 16:
            self.upscore16 = up(16)
            return
        self.upscore_pool4, self.score_pool3 = up(2), nn.Conv2d(self.WIDTHS[2], classes, 1)
        self.upscore8 = up(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, pools = x, []
        for stage, count in enumerate((2, 2, 3, 3, 3), 1):
            for n in range(1, count + 1):
                y = getattr(self, f"conv{stage}_{n}")(y).relu()
            y = F.max_pool2d(y, 2, 2, ceil_mode=True)
            pools.append(y)
        y = self.score_fr(self.fc7(self.fc6(y).relu()).relu())

        def cut(y: torch.Tensor, first: int, like: torch.Tensor) -> torch.Tensor:
            return y[:, :, first : first + like.shape[2], first : first + like.shape[3]]

        if self.stride == 32:
            return cut(self.upscore(y), 19, x)
        y = self.upscore2(y)
        y = y + cut(self.score_pool4(pools[3] * self.scales[0]), 5, y)
        if self.stride == 16:
            return cut(self.upscore16(y), 27, x)
        y = self.upscore_pool4(y)
        y = y + cut(self.score_pool3(pools[2] * self.scales[1]), 9, y)
        return cut(self.upscore8(y), 31, x)


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(("stride", "at_once"), [(32, False), (16, False), (8, False), (8, True)])
def test_vgg16(stride: int, at_once: bool, bilinear: bool) -> None:
    torch.manual_seed(stride)
    theirs = PlainFCN(5, stride, at_once, bands=4)
    if bilinear:
        for module in theirs.modules():
            if isinstance(module, nn.ConvTranspose2d):
                kernel = fastseg.nn.bilinear_kernel(module.stride[0]).float()
                module.weight.data = kernel * torch.eye(5)[:, :, None, None]
    ours = fastseg.load_checkpoint(theirs.state_dict(), at_once=at_once)
    assert isinstance(ours, FCNVGG16) and ours.in_channels == 4 and ours.bgr
    for size in ((33, 47), (1, 8)):
        x = torch.randn(2, 4, *size)
        with torch.no_grad():
            assert relative_error(ours(x), theirs(x)) <= 1e-5
    assert_same(ours, theirs, (37, 45), 4)


def test_vgg16_takes_bgr_as_caffe_did() -> None:
    model = FCNVGG16(2, widths=PlainFCN.WIDTHS, hidden=4, bgr=True)
    pixels = torch.randint(0, 256, (4, 5, 3), dtype=torch.uint8)
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434])
    expected = (pixels.flip(2).float() - mean).permute(2, 0, 1)[None]
    torch.testing.assert_close(model.preprocess(pixels), expected, rtol=1e-5, atol=1e-3)
