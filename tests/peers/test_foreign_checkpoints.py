"""Checkpoints of torchvision, VainF, semseg and mmseg: features and logits, not names alone.

torchvision's networks are its own. The others are not installed: what they compute is written here
with torchvision's blocks and PyTorch's functions, and their names are those of their files.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.models import SegmentationModel, export_checkpoint
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

CLASSES = 5
SIZE = 64


@pytest.fixture(scope="session")
def torchvision() -> Any:
    declare_torchvision_ops()
    return pytest.importorskip("torchvision")


class Trunk(nn.Module):
    """A ResNet-50 dilated to stride 8 or 16, with a stem of one or three convolutions."""

    def __init__(
        self, torchvision: Any, stride: int, stem: tuple[int, ...] | None, contract: bool
    ) -> None:
        super().__init__()
        resnet = torchvision.models.resnet
        net = resnet.resnet50(replace_stride_with_dilation=[False, stride == 8, True])
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            net.layer1,
            net.layer2,
            net.layer3,
            net.layer4,
        )
        if stem is not None:
            a, b, c = stem
            self.conv1 = nn.Sequential(
                *conv_bn_relu(3, a, 3, 2),
                *conv_bn_relu(a, b, 3),
                nn.Conv2d(b, c, 3, padding=1, bias=False),
            )
            self.bn1 = nn.BatchNorm2d(c)
            net.inplanes = c
            net.dilation = 1
            self.layer1 = net._make_layer(resnet.Bottleneck, 64, 3)
        if not contract:
            for layer in (self.layer3, self.layer4):
                layer[0].conv2.dilation = layer[0].conv2.padding = layer[1].conv2.dilation

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features


def conv_bn_relu(channels: int, out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out), nn.ReLU()]


def resized(x: torch.Tensor, like: torch.Tensor, align_corners: bool = False) -> torch.Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=align_corners)


class PSP(nn.Module):
    """PSPNet's head of semseg and mmseg: [x, pools], then 3x3."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.features = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(b), *conv_bn_relu(2048, 512, 1))
            for b in (1, 2, 3, 6)
        )
        self.cls = nn.Sequential(
            *conv_bn_relu(2048 + 4 * 512, 16, 3), nn.Dropout2d(0.1), nn.Conv2d(16, CLASSES, 1)
        )

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        x = features[-1]
        pools = [resized(branch(x), x, self.align_corners) for branch in self.features]
        return self.cls(torch.cat([x, *pools], 1))


class PooledFirst(nn.Module):
    """DeepLabV3's head of mmseg: [pool, branches], 3x3, classes."""

    def __init__(self, aspp: nn.Module) -> None:
        super().__init__()
        self.convs = aspp.convs
        self.bottleneck = nn.Sequential(*conv_bn_relu(5 * 32, 32, 3))
        self.conv_seg = nn.Conv2d(32, CLASSES, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        *branches, pooled = (branch(features[-1]) for branch in self.convs)
        return self.conv_seg(self.bottleneck(torch.cat([pooled, *branches], 1)))


class LowFirst(nn.Module):
    """DeepLabV3+'s head of VainF: [features at stride 4, ASPP], dense 3x3, classes."""

    def __init__(self, aspp: nn.Module) -> None:
        super().__init__()
        self.aspp = aspp
        self.project = nn.Sequential(*conv_bn_relu(256, 48, 1))
        self.classifier = nn.Sequential(*conv_bn_relu(48 + 32, 32, 3), nn.Conv2d(32, CLASSES, 1))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        low = self.project(features[0])
        return self.classifier(torch.cat([low, resized(self.aspp(features[-1]), low)], 1))


def separable(channels: int, out: int, rate: int = 1) -> nn.Module:
    """Depthwise and pointwise, each with a norm and ReLU, under mmseg's names."""
    depthwise = nn.Conv2d(channels, channels, 3, 1, rate, rate, groups=channels, bias=False)
    layers = {
        "depthwise_conv": [depthwise, nn.BatchNorm2d(channels), nn.ReLU()],
        "pointwise_conv": conv_bn_relu(channels, out, 1),
    }
    return nn.Sequential(
        OrderedDict(
            (name, nn.Sequential(OrderedDict(zip(("conv", "bn", "relu"), parts, strict=True))))
            for name, parts in layers.items()
        )
    )


class SeparableTwice(nn.Module):
    """DeepLabV3+'s head of mmseg: [pool, branches], 3x3; [ASPP, features at stride 4], two
    separable convolutions, classes."""

    def __init__(self, rates: tuple[int, ...]) -> None:
        super().__init__()
        self.image_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), *conv_bn_relu(2048, 32, 1))
        self.aspp_modules = nn.ModuleList(
            [nn.Sequential(*conv_bn_relu(2048, 32, 1)), *(separable(2048, 32, r) for r in rates)]
        )
        self.bottleneck = nn.Sequential(*conv_bn_relu(5 * 32, 32, 3))
        self.c1_bottleneck = nn.Sequential(*conv_bn_relu(256, 48, 1))
        self.sep_bottleneck = nn.Sequential(separable(48 + 32, 32), separable(32, 32))
        self.conv_seg = nn.Conv2d(32, CLASSES, 1)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        low, x = self.c1_bottleneck(features[0]), features[-1]
        pooled = self.image_pool(x).expand(-1, -1, *x.shape[2:])
        y = self.bottleneck(torch.cat([pooled, *(branch(x) for branch in self.aspp_modules)], 1))
        return self.conv_seg(self.sep_bottleneck(torch.cat([resized(y, low), low], 1)))


class Net(nn.Module):
    """Trunk, head and perhaps an auxiliary head, in training form."""

    def __init__(self, trunk: Trunk, head: nn.Module, auxiliary: bool) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        self.auxiliary = (
            nn.Sequential(*conv_bn_relu(1024, 8, 3), nn.Dropout2d(0.1), nn.Conv2d(8, CLASSES, 1))
            if auxiliary
            else None
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        features = self.trunk(x)
        auxiliary = None if self.auxiliary is None else self.auxiliary(features[2])
        return features[-1], self.head(features), auxiliary


def _deeplab_head(torchvision: Any, rates: tuple[int, ...]) -> Callable[[Any], nn.Module]:
    aspp = torchvision.models.segmentation.deeplabv3.ASPP(2048, rates, 32)
    layers = [aspp, nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    head = nn.Sequential(*layers, nn.Conv2d(32, CLASSES, 1))

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
            return self.head(features[-1])

    return Last()


STEM = {"conv1.0": 0, "conv1.1": 1, "conv1.3": 3, "conv1.4": 4, "conv1.6": 6, "bn1": 7}


def rename(state_dict: dict[str, Any], rules: list[tuple[str, str]]) -> dict[str, Any]:
    renamed = {}
    for key, value in state_dict.items():
        for pattern, replacement in rules:
            changed = re.sub(f"^{pattern}", replacement, key)
            if changed != key:
                key = changed
                break
        renamed[key] = value
    return renamed


def _mmseg(names: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [
        *[(rf"trunk\.{re.escape(k)}\.", f"backbone.stem.{v}.") for k, v in STEM.items()],
        (r"trunk\.", "backbone."),
        (r"auxiliary\.0\.", "auxiliary_head.convs.0.conv."),
        (r"auxiliary\.1\.", "auxiliary_head.convs.0.bn."),
        (r"auxiliary\.4\.", "auxiliary_head.conv_seg."),
        *names,
    ]


def network(torchvision: Any, family: str) -> tuple[Net, dict[str, torch.Tensor]]:
    """What a library computes, and its checkpoint."""
    rates = (6, 12, 18) if family.startswith("vainf") else (12, 24, 36)
    stride = 16 if family.startswith("vainf") else 8
    aspp = torchvision.models.segmentation.deeplabv3.ASPP(2048, rates, 32)
    trunk, auxiliary = [(r"trunk\.", "backbone.")], True
    stem: tuple[int, ...] | None = None
    if family == "torchvision-deeplabv3":
        head = _deeplab_head(torchvision, rates)
        rules = [*trunk, (r"head\.head\.", "classifier."), (r"auxiliary\.", "aux_classifier.")]
    elif family == "vainf-deeplabv3":
        head, auxiliary = _deeplab_head(torchvision, rates), False
        rules = [*trunk, (r"head\.head\.", "classifier.classifier.")]
    elif family == "vainf-deeplabv3plus":
        head, auxiliary = LowFirst(aspp), False
        rules = [*trunk, (r"head\.", "classifier.")]
    elif family == "semseg-pspnet":
        head, stem = PSP(True), (64, 64, 128)
        rules = [
            *[(rf"trunk\.{re.escape(k)}\.", f"layer0.{v}.") for k, v in STEM.items()],
            (r"trunk\.", ""),
            (r"head\.features\.", "ppm.features."),
            (r"head\.cls\.", "cls."),
            (r"auxiliary\.", "aux."),
        ]
    elif family == "mmseg-pspnet":
        head, stem = PSP(False), (32, 32, 64)
        rules = _mmseg(
            [
                (r"head\.features\.(\d)\.1\.", r"decode_head.psp_modules.\1.1.conv."),
                (r"head\.features\.(\d)\.2\.", r"decode_head.psp_modules.\1.1.bn."),
                (r"head\.cls\.0\.", "decode_head.bottleneck.conv."),
                (r"head\.cls\.1\.", "decode_head.bottleneck.bn."),
                (r"head\.cls\.4\.", "decode_head.conv_seg."),
            ]
        )
    elif family == "mmseg-deeplabv3plus":
        head, stem = SeparableTwice(rates), (32, 32, 64)
        rules = _mmseg(
            [
                (r"head\.image_pool\.1\.", "decode_head.image_pool.1.conv."),
                (r"head\.image_pool\.2\.", "decode_head.image_pool.1.bn."),
                (r"head\.aspp_modules\.0\.0\.", "decode_head.aspp_modules.0.conv."),
                (r"head\.aspp_modules\.0\.1\.", "decode_head.aspp_modules.0.bn."),
                (r"head\.(\w*bottleneck)\.0\.(?!\w+_conv)", r"decode_head.\1.conv."),
                (r"head\.(\w*bottleneck)\.1\.(?!\w+_conv)", r"decode_head.\1.bn."),
                (r"head\.", "decode_head."),
            ]
        )
    else:
        head, stem = PooledFirst(aspp), (32, 32, 64)
        rules = _mmseg(
            [
                (r"head\.convs\.([0-3])\.0\.", r"decode_head.aspp_modules.\1.conv."),
                (r"head\.convs\.([0-3])\.1\.", r"decode_head.aspp_modules.\1.bn."),
                (r"head\.convs\.4\.1\.", "decode_head.image_pool.1.conv."),
                (r"head\.convs\.4\.2\.", "decode_head.image_pool.1.bn."),
                (r"head\.bottleneck\.0\.", "decode_head.bottleneck.conv."),
                (r"head\.bottleneck\.1\.", "decode_head.bottleneck.bn."),
                (r"head\.conv_seg\.", "decode_head.conv_seg."),
            ]
        )
    net = Net(Trunk(torchvision, stride, stem, family != "semseg-pspnet"), head, auxiliary)
    # Statistics of a trained network: without them the values vanish on the way.
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval(), rename(net.state_dict(), rules)


FAMILIES = (
    "torchvision-deeplabv3",
    "vainf-deeplabv3",
    "vainf-deeplabv3plus",
    "semseg-pspnet",
    "mmseg-pspnet",
    "mmseg-deeplabv3",
    "mmseg-deeplabv3plus",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_and_logits(torchvision: Any, family: str) -> None:
    net, state_dict = network(torchvision, family)
    model = fastseg.load_checkpoint(
        {"state_dict": {f"module.{k}": v for k, v in state_dict.items()}}
    )
    assert isinstance(model, SegmentationModel)
    x = (
        torch.randn(1, 3, SIZE + 1, SIZE + 1)
        if model.align_corners
        else torch.randn(1, 3, SIZE, SIZE)
    )
    with torch.no_grad():
        features, logits, auxiliary = net(x)
        assert relative_error(model.encoder(x)[-1], features) <= 1e-5
        ours, ours_auxiliary = model.training_logits(x)
        assert relative_error(ours, logits) <= 1e-5
        assert (ours_auxiliary is None) == (auxiliary is None)
        if auxiliary is not None:
            assert relative_error(ours_auxiliary, auxiliary) <= 1e-5
        assert relative_error(model(x), resized(logits, x, model.align_corners)) <= 1e-5
    written = export_checkpoint(model, family)
    assert written.keys() == state_dict.keys()
    assert all(torch.equal(written[name], value) for name, value in state_dict.items())
    # Nothing is dropped silently, nor made up.
    inner = next(key for key in state_dict if "layer2.1.conv1" in key)
    with pytest.raises(ValueError, match=f"{family}; missing: .*unused: decode_head.more"):
        rest = {k: v for k, v in state_dict.items() if k != inner}
        fastseg.load_checkpoint({**rest, "decode_head.more": torch.ones(1)})


def test_torchvision_as_it_is(torchvision: Any) -> None:
    theirs = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    ).eval()
    ours = fastseg.load_checkpoint(theirs.state_dict())
    x = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        assert relative_error(ours(x), theirs(x)["out"]) <= 1e-4


def test_arguments_that_are_not_in_the_weights(torchvision: Any) -> None:
    _, state_dict = network(torchvision, "vainf-deeplabv3plus")
    model = fastseg.load_checkpoint(
        state_dict, encoder_output_stride=8, decoder_atrous_rates=(12, 24, 36)
    )
    assert model.encoder.output_stride == 8
    assert model.decoder.aspp[0].convs[3][0].dilation == (36, 36)


def test_other_heads_of_mmseg_are_not_mistaken() -> None:
    keys = ("backbone.conv1.weight", "decode_head.psp_modules.0.1.conv.weight")
    more = ("decode_head.bottleneck.conv.weight", "decode_head.lateral_convs.0.conv.weight")
    with pytest.raises(ValueError, match="of no known family"):
        fastseg.load_checkpoint({key: torch.ones(1) for key in (*keys, *more)})


@pytest.mark.parametrize("stride", [8, 16])
def test_mobile_deeplab_of_transformers(torchvision: Any, stride: int) -> None:
    """Norms folded, at a size where TensorFlow's padding is symmetric."""
    library = pytest.importorskip("transformers")
    config = library.MobileNetV2Config(output_stride=stride, num_labels=21, depth_multiplier=0.5)
    theirs = library.MobileNetV2ForSemanticSegmentation(config).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.1, 0.1)
        elif isinstance(module, nn.Conv2d):  # random weights of theirs let the values vanish
            nn.init.kaiming_normal_(module.weight, mode="fan_in")
    with pytest.warns(UserWarning, match=r"are dropped: mobilenet_v2\.conv_1x1"):
        ours = fastseg.load_checkpoint(theirs.state_dict(), output_stride=stride)
    x = torch.randn(2, 3, 65, 97)
    with torch.no_grad():
        expected = theirs(x).logits
        assert relative_error(ours.coarse_logits(x), expected) <= 1e-5
    incomplete = theirs.state_dict()
    del incomplete["mobilenet_v2.layer.3.conv_3x3.normalization.bias"]
    with pytest.raises(ValueError, match=r"missing: blocks\.4\.depthwise\.weight"):
        fastseg.load_checkpoint(incomplete)
