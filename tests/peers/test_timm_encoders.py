"""Encoders "tu-...", of timm: against segmentation_models_pytorch with the same weights."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import fastseg
from fastseg.models import SegmentationModel, make_encoder
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

# Kinds: residual, inverted residual, ConvNeXt, linear attention, transposed attention, pyramid
# transformer, mobile transformer, plain with features at stride 1, tree, re-parametrised, windows.
ENCODERS: dict[str, dict[str, Any]] = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "lcnet_035": {},
    "ghostnet_050": {},
    "efficientvit_b0": {},
    "edgenext_xx_small": {},
    "pvt_v2_b0": {},
    "mobilevit_xxs": {},
    "vgg11": {},
    "dla46_c": {},
    "repvgg_a0": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "embed_dim": 12, "depths": (1, 1, 1, 1)},
}
# Output stride 16 exists for these.
DILATED = (
    "test_resnet",
    "test_efficientnet",
    "test_convnext",
    "lcnet_035",
    "repvgg_a0",
    "mobilevit_xxs",
)
each_encoder = pytest.mark.parametrize("name", ENCODERS)


@pytest.fixture(scope="module", autouse=True)
def timm() -> Any:
    declare_torchvision_ops()
    return pytest.importorskip("timm")


def pair(smp: Any, arch: str, name: str, **arguments: Any) -> tuple[Any, Any]:
    options = ENCODERS[name]
    arguments = {"encoder_name": f"tu-{name}", "encoder_weights": None, "classes": 3, **arguments}
    theirs = getattr(smp, arch)(**arguments, **options)
    ours = fastseg.create_model(arch, **arguments, encoder_options=options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        for module in model.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.p = 0.0
            elif type(module).__name__ == "DropPath":
                module.drop_prob = 0.0
    return theirs.double(), ours.double()


@each_encoder
@pytest.mark.parametrize("arch", ["Unet", "Segformer", "DeepLabV3Plus"])
def test_features_and_outputs(smp: Any, arch: str, name: str) -> None:
    arguments: dict[str, Any] = {"in_channels": 4}
    if arch == "DeepLabV3Plus":
        if name not in DILATED:
            pytest.skip("has no output stride 16")
        arguments["in_channels"] = 1
    theirs, ours = pair(smp, arch, name, **arguments)
    x = torch.randn(2, arguments["in_channels"], 64, 64, dtype=torch.float64)
    for training in (False, True):
        theirs.train(training), ours.train(training)
        with torch.no_grad():
            expected, found = theirs.encoder(x), ours.encoder(x)
            assert [f.shape for f in found] == [f.shape for f in expected]
            assert [f.shape[1] for f in found] == ours.encoder.out_channels
            for one, other in zip(found, expected, strict=True):
                assert one.numel() == 0 or relative_error(one, other) <= 1e-10
            assert relative_error(ours(x), theirs(x)) <= 1e-10


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "vgg11"])
def test_fewer_halvings(smp: Any, name: str, depth: int) -> None:
    channels = (32, 16, 16, 8)[:depth]
    theirs, ours = pair(smp, "Unet", name, encoder_depth=depth, decoder_channels=channels)
    x = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    assert relative_error(ours.eval()(x), theirs.eval()(x)) <= 1e-10


def test_training_saving_and_loading(smp: Any, tmp_path: Path) -> None:
    theirs, ours = (m.float() for m in pair(smp, "Unet", "test_resnet"))
    x = torch.randn(2, 3, 40, 50)
    ours.train().loss(x, torch.randint(0, 3, (2, 40, 50))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
    ours.eval().save_pretrained(tmp_path / "ours")
    theirs.eval().save_pretrained(tmp_path / "theirs")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        again = SegmentationModel.from_pretrained(tmp_path / "ours")
        assert torch.equal(again(x), ours(x))
        assert again.mean == ours.mean == (0.5, 0.5, 0.5)
        read = SegmentationModel.from_pretrained(tmp_path / "theirs")
        assert relative_error(read(x), theirs(x)) <= 1e-5
        state = theirs.state_dict()
        loaded = fastseg.load_checkpoint(state, encoder_name="tu-test_resnet")
        assert relative_error(loaded(x), theirs(x)) <= 1e-5
    with pytest.raises(ValueError, match="no tensor tells which: pass encoder_name='tu-NAME'"):
        fastseg.load_checkpoint(state)


def test_buffers_that_no_file_holds_are_there_after_loading(tmp_path: Path) -> None:
    """Swin's windows: they are computed where the network is made."""
    name, options = "tu-swin_tiny_patch4_window7_224", ENCODERS["swin_tiny_patch4_window7_224"]
    model = fastseg.Unet(name, encoder_weights=None, encoder_options=options).eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(SegmentationModel.from_pretrained(tmp_path)(x), model(x))
    export = torch.export.export(model, (x,)).module()
    with torch.no_grad():
        torch.testing.assert_close(export(x), model(x))


def test_statistics_and_parameters_of_preprocessing(smp: Any) -> None:
    encoder = make_encoder("tu-test_resnet")
    assert encoder.mean == encoder.std == (0.5, 0.5, 0.5)
    model = fastseg.Unet("tu-test_resnet", encoder_weights=None)
    white = numpy.full((32, 32, 3), 255, numpy.uint8)
    torch.testing.assert_close(model.preprocess(white), torch.ones(1, 3, 32, 32))
    for name in ("tu-test_resnet", "tu-resnet18", "tu-convnext_tiny"):
        expected = smp.encoders.get_preprocessing_params(name)
        assert fastseg.get_preprocessing_params(name) == expected
        prepare = fastseg.get_preprocessing_fn(name)
        for image in (white, white / 510):
            numpy.testing.assert_allclose(
                prepare(image), smp.encoders.preprocess_input(image, **expected)
            )
    assert fastseg.get_preprocessing_params("mit_b0")["mean"] == [0.485, 0.456, 0.406]
    with pytest.raises(ValueError, match="'noisy', of resnet18 there are imagenet, ssl, swsl"):
        fastseg.get_preprocessing_params("resnet18", "noisy")
    with pytest.raises(ValueError, match="timm has no weights of it"):
        fastseg.get_preprocessing_params("tu-resnet10t_")


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_weights_of_a_file(timm: Any, in_channels: int, tmp_path: Path) -> None:
    """Those of the whole network, with its classifier."""
    whole = timm.create_model("test_resnet", num_classes=10)
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    path = str(tmp_path / "weights.pth")
    encoder = make_encoder("tu-test_resnet", in_channels, weights=path).eval()
    x = torch.randn(1, in_channels, 32, 32)
    expected = timm.create_model("test_resnet", features_only=True).eval()
    expected.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")}
    )
    own = encoder.model.state_dict()
    for key, value in expected.state_dict().items():
        if own[key].shape == value.shape:
            assert torch.equal(own[key], value), key
    if in_channels == 3:
        with torch.no_grad():
            assert torch.equal(encoder(x)[-1], expected(x)[-1])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"name": "tu-nothing"}, "encoder_name is 'tu-nothing': timm cannot make its features"),
        ({"name": "tu-vit_tiny_patch16_224"}, r"strides \[16, 16, 16\], expected the powers of 2"),
        ({"name": "tu-pvt_v2_b0", "output_stride": 8}, "encoder_name is 'tu-pvt_v2_b0'"),
        ({"name": "tu-test_resnet", "weights": "noisy"}, "encoder_weights is 'noisy', expected"),
        ({"name": "tu-test_resnet", "checkpoint_path": "x"}, "option checkpoint_path is given"),
    ],
)
def test_what_there_is_not(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_encoder(**arguments)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name == "timm":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r'need the package timm: pip install "fastseg-kernels'):
        make_encoder("tu-test_resnet")


def test_create_model() -> None:
    model = fastseg.create_model("Segformer", "mit_b0", None, in_channels=2, classes=4)
    assert type(model) is fastseg.SegFormer
    assert (model.in_channels, len(model.classes)) == (2, 4)
    with pytest.raises(ValueError, match="arch is 'linknet', allowed are deeplabv1, "):
        fastseg.create_model("linknet")
