"""Encoders: their shapes, dilation and the weights that they start from."""

from __future__ import annotations

import builtins
from pathlib import Path

import pytest
import torch
from torch import nn

from fastseg.models import ENCODERS, make_encoder

WIDTHS = {
    "resnet18": [64, 64, 128, 256, 512],
    "resnet50": [64, 256, 512, 1024, 2048],
    "mobilenet_v2": [16, 24, 32, 96, 1280],
}


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_features(name: str, depth: int, output_stride: int) -> None:
    encoder = make_encoder(name, 2, depth, output_stride=output_stride).eval()
    assert encoder.out_channels == [2, *WIDTHS[name][:depth]]
    assert encoder.output_stride == min(output_stride, 2**depth)
    with torch.no_grad():
        features = encoder(torch.randn(1, 2, 65, 64))
    for halvings, (feature, channels) in enumerate(
        zip(features, encoder.out_channels, strict=True)
    ):
        stride = min(2**halvings, output_stride)
        assert feature.shape == (1, channels, 64 // stride + 1, 64 // stride)


@pytest.mark.parametrize("contract", [False, True])
def test_dilation_of_the_first_block(contract: bool) -> None:
    encoder = make_encoder("resnet50", output_stride=8, contract_dilation=contract)
    dilations = [
        [block.conv2.dilation[0] for block in stage] for stage in (encoder.layer3, encoder.layer4)
    ]
    assert dilations == ([[1, *[2] * 5], [2, 4, 4]] if contract else [[2] * 6, [4] * 3])
    with pytest.raises(ValueError, match="contract_dilation is True"):
        make_encoder("resnet18", contract_dilation=True)


@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_features_of_vgg(name: str, depth: int) -> None:
    """Those before each pooling, the last one pooled; odd sizes lose their rest."""
    encoder = make_encoder(name, 2, depth).eval()
    assert encoder.out_channels == [64, 128, 256, 512, 512, 512][: depth + 1]
    with torch.no_grad():
        features = encoder(torch.randn(1, 2, 65, 64))
    for halvings, (feature, channels) in enumerate(
        zip(features, encoder.out_channels, strict=True)
    ):
        assert feature.shape == (1, channels, 65 >> halvings, 64 >> halvings)
    assert len(encoder.features) == encoder.last_layers[-1] + 1


def test_deep_stem() -> None:
    encoder = make_encoder("resnet50", stem_channels=(64, 64, 128))
    assert encoder.out_channels == [3, 128, 256, 512, 1024, 2048]
    assert encoder.layer1[0].conv1.in_channels == 128
    with pytest.raises(ValueError, match="stem_channels has 2"):
        make_encoder("resnet50", stem_channels=(64, 64))


@pytest.mark.parametrize("in_channels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_weights_of_a_file(name: str, in_channels: int, tmp_path: Path) -> None:
    """With the classifier and the stages that are not used; other numbers of channels too."""
    source = make_encoder(name).eval()
    prefix = source.classifier_prefix
    torch.save({**source.state_dict(), f"{prefix}weight": torch.ones(2)}, tmp_path / "weights")
    encoder = make_encoder(name, in_channels, 3, str(tmp_path / "weights")).eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        grey = source(x.expand(-1, 3, -1, -1))[3]
        if in_channels == 1:
            torch.testing.assert_close(encoder(x)[3], grey)
        first = next(m for m in encoder.modules() if isinstance(m, nn.Conv2d)).weight
        original = next(m for m in source.modules() if isinstance(m, nn.Conv2d)).weight
        if in_channels > 1:
            for channel in range(in_channels):
                torch.testing.assert_close(
                    first[:, channel], original[:, channel % 3] * (3 / in_channels)
                )


def test_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ValueError, match="encoder_weights is 'swsl': neither one of 'imagenet' nor a file"
    ):
        make_encoder("resnet34", weights="swsl")
    torch.save(make_encoder("resnet34").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: does not fit the encoder mobilenet_v2"):
        make_encoder("mobilenet_v2", weights=str(tmp_path / "other.pth"))
    (tmp_path / "broken.pth").write_bytes(b"PK12")
    with pytest.raises(ValueError, match=r"broken\.pth: not a checkpoint of torch"):
        make_encoder("resnet18", weights=str(tmp_path / "broken.pth"))

    original = builtins.__import__

    def without_hub(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("huggingface_hub"):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_hub)
    with pytest.raises(ValueError, match=r"fastseg-kernels\[hub\].*encoder_weights=None"):
        make_encoder("resnet18", weights="imagenet")


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(ValueError, match=r"smp-hub/resnet18.imagenet cannot be had .*no route\)"):
        make_encoder("resnet18", weights="imagenet")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "vgg16", "output_stride": 16}, "poolings of 2x2 cannot become dilation"),
        ({"name": "vgg"}, "encoder_name is 'vgg', allowed are resnet18"),
        ({"depth": 6}, "encoder depth is 6"),
        ({"name": "efficientnet-b0"}, "take 'tu-efficientnet_b0', with other names of tensors"),
        ({"output_stride": 4}, "output stride is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_encoder(**{"name": "resnet18", **arguments})


def test_every_encoder_is_built() -> None:
    with torch.device("meta"):
        counts = {n: sum(p.numel() for p in make_encoder(n).parameters()) for n in ENCODERS}
    # The published sizes without the classifier (1000 classes).
    assert counts == {
        "resnet18": 11_176_512,
        "resnet34": 21_284_672,
        "resnet50": 23_508_032,
        "resnet101": 42_500_160,
        "resnet152": 58_143_808,
        "mobilenet_v2": 2_223_872,
        "mobilenet_v3_large": 2_971_952,
        "vgg11": 9_220_480,
        "vgg11_bn": 9_225_984,
        "vgg13": 9_404_992,
        "vgg13_bn": 9_410_880,
        "vgg16": 14_714_688,
        "vgg16_bn": 14_723_136,
        "vgg19": 20_024_384,
        "vgg19_bn": 20_035_392,
        "mit_b0": 3_319_392,
        "mit_b1": 13_151_424,
        "mit_b2": 24_196_288,
        "mit_b3": 44_072_128,
        "mit_b4": 60_842_688,
        "mit_b5": 81_443_008,
        "swin_t": 27_520_698,
        "swin_s": 48_838_602,
        "swin_b": 86_745_016,
        "swin_l": 194_998_164,
    }
