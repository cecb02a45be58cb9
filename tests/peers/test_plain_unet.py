"""mmsegmentation's UNet and the paper's, written here with PyTorch's layers under their names."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastseg
from fastseg.models import PlainUNet, export_checkpoint
from fastseg.testing import relative_error

BASE, LEVELS, CLASSES = 4, 5, 3


def conv_module(channels: int, out: int, kernel: int = 3) -> nn.Module:
    convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=convolution, bn=nn.BatchNorm2d(out), relu=nn.ReLU()))


class Twice(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_module(channels, out), conv_module(out, out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class Up(nn.Module):
    def __init__(self, channels: int, deconvolution: bool) -> None:
        super().__init__()
        if deconvolution:
            layers = [nn.ConvTranspose2d(2 * channels, channels, 4, 2, 1), nn.BatchNorm2d(channels)]
            self.upsample: Any = nn.Sequential(
                OrderedDict(deconv_upsamping=nn.Sequential(*layers, nn.ReLU()))
            )
        else:
            doubled = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            layers = [doubled, conv_module(2 * channels, channels, 1)]
            self.upsample = nn.Sequential(OrderedDict(interp_upsample=nn.Sequential(*layers)))
        self.conv_block = Twice(2 * channels, channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv_block(torch.cat([skip, self.upsample(x)], 1))


class Backbone(nn.Module):
    def __init__(self, deconvolution: bool) -> None:
        super().__init__()
        widths = [BASE << level for level in range(LEVELS)]
        self.encoder = nn.ModuleList(
            nn.Sequential(*([nn.MaxPool2d(2)] if level else []), Twice(given, width))
            for level, (given, width) in enumerate(zip((3, *widths), widths, strict=False))
        )
        self.decoder = nn.ModuleList(Up(width, deconvolution) for width in widths[:-1])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        made = [x]
        for level in range(LEVELS - 2, -1, -1):
            x = self.decoder[level](x, skips[level])
            made.append(x)
        return made


class FCNHead(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(conv_module(channels, hidden))
        self.conv_seg = nn.Conv2d(hidden, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_seg(self.convs(x))


class Net(nn.Module):
    """mmsegmentation's, with the auxiliary head that reads level 3 of what the decoder made."""

    def __init__(self, deconvolution: bool) -> None:
        super().__init__()
        self.backbone = Backbone(deconvolution)
        self.decode_head = FCNHead(BASE, 6)
        self.auxiliary_head = FCNHead(2 * BASE, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = self.backbone(x)
        return self.decode_head(made[-1]), self.auxiliary_head(made[3])


@pytest.mark.parametrize("deconvolution", [False, True], ids=["interp", "deconv"])
def test_mmsegs_outputs_gradients_and_names(deconvolution: bool) -> None:
    torch.manual_seed(0)
    theirs = Net(deconvolution)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    given = theirs.state_dict()
    ours = fastseg.load_checkpoint({"state_dict": given, "meta": {}})
    assert type(ours) is PlainUNet
    written = export_checkpoint(ours, "mmseg-unet")
    assert written.keys() == given.keys()
    assert all(torch.equal(written[name], value) for name, value in given.items())
    with pytest.raises(ValueError, match=r"mmseg-unet; .*unused: backbone\.more"):
        fastseg.load_checkpoint({**given, "backbone.more": torch.ones(1)})
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    ours.dropout.p = ours.auxiliary_head[3].p = 0.0
    for training in (False, True):
        theirs.double().train(training).zero_grad()
        ours.double().train(training).zero_grad()
        expected, found = theirs(x), ours.training_logits(x)
        for mine, given_map in zip(found, expected, strict=True):
            assert relative_error(mine, given_map) <= 1e-10
        assert relative_error(ours(x), theirs(x)[0]) <= 1e-10
        sum(y.square().sum() for y in expected).backward()
        sum(y.square().sum() for y in found).backward()
        truth = {name: p.grad for name, p in theirs.named_parameters()}
        grads = {name: p.grad for name, p in ours.named_parameters()}
        names = fastseg.models.checkpoints.mmseg.FAMILIES
        family = next(f for f in names if f.name == "mmseg-unet")
        for name, grad in family.translated(truth).items():
            error = (grads[name] - grad).norm() / grad.norm().clamp_min(1e-6)
            assert error <= 1e-8, name  # of a bias before a norm there is nothing but rounding


def test_the_papers_on_a_mirrored_image() -> None:
    """Of 388 x 388 pixels the network sees 572 x 572; here 20 x 36 and 60 x 76."""
    torch.manual_seed(0)
    model = PlainUNet.original(base_channels=4, depth=3).double().eval()
    assert PlainUNet.original(base_channels=1).margin() == (572 - 388) // 2
    x = torch.randn(1, 1, 20, 36, dtype=torch.float64)
    margin = model.margin()
    assert margin == 20

    def convs(layers: nn.Module, y: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                y = F.conv2d(y, layer.weight, layer.bias).relu()
        return y

    def middle(y: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        top, left = ((a - b) // 2 for a, b in zip(y.shape[2:], like.shape[2:], strict=True))
        return y[:, :, top : top + like.shape[2], left : left + like.shape[3]]

    # numpy's "reflect" goes to and fro where the margin is wider than the image.
    widths = ((0, 0), (0, 0), (margin, margin), (margin, margin))
    y = torch.from_numpy(numpy.pad(x.numpy(), widths, "reflect"))
    with torch.no_grad():
        a = convs(model.down[0], y)
        b = convs(model.down[1], F.max_pool2d(a, 2))
        y = convs(model.down[2], F.max_pool2d(b, 2))
        for level, skip in ((1, b), (0, a)):
            up = model.up[level].deconv
            y = F.conv_transpose2d(y, up.weight, up.bias, 2)
            y = convs(model.up[level].convs, torch.cat([middle(skip, y), y], 1))
        expected = model.classifier(y)
        assert expected.shape == (1, 2, 20, 36)
        assert relative_error(model(x), expected) <= 1e-10


def test_arguments_out_of_range() -> None:
    for arguments, message in (
        ({"depth": 1}, "depth is 1, allowed are 2 to 8"),
        ({"upsampling": "nearest"}, "upsampling is 'nearest', allowed are bilinear"),
        ({"border": "edge"}, "border is 'edge', allowed are zeros, mirror"),
        ({"base_channels": 0}, "base_channels is 0"),
        ({"depth": 3, "auxiliary_channels": 8}, "auxiliary_channels needs a depth of at least 4"),
    ):
        with pytest.raises(ValueError, match=message):
            PlainUNet(**arguments)
