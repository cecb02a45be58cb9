"""Our models with smp's names against segmentation_models_pytorch, with the same weights."""

from __future__ import annotations

import copy
import inspect
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import fastseg
from fastseg.models import SegmentationModel
from fastseg.nn.dot_product import DropPath
from fastseg.testing import relative_error

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CLASSES = ("FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Segformer", "Unet", "UPerNet")
# Constructor arguments; what is not given is smp's default.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *[("DeepLabV3Plus", {"encoder_name": name}) for name in (*RESNETS, "mobilenet_v2")],
    ("DeepLabV3Plus", {"encoder_name": "resnet50", "encoder_output_stride": 8}),
    ("DeepLabV3Plus", {"encoder_name": "mobilenet_v2", "encoder_output_stride": 8}),
    ("DeepLabV3Plus", {"encoder_name": "resnet18", "encoder_depth": 4, "upsampling": 2}),
    ("DeepLabV3Plus", {"encoder_name": "mobilenet_v2", "decoder_aspp_separable": False}),
    ("DeepLabV3", {"encoder_name": "resnet18", "decoder_atrous_rates": (1, 2, 3)}),
    ("DeepLabV3", {"encoder_name": "mobilenet_v2", "in_channels": 4, "activation": "sigmoid"}),
    ("DeepLabV3", {"encoder_name": "resnet50", "encoder_output_stride": 16, "upsampling": 8}),
    ("DeepLabV3", {"encoder_name": "resnet34", "encoder_depth": 3, "decoder_channels": 32}),
    ("PSPNet", {"encoder_name": "resnet34", "aux_params": {"classes": 3, "dropout": None}}),
    ("PSPNet", {"encoder_name": "resnet50", "in_channels": 1, "activation": "softmax2d"}),
    ("PSPNet", {"encoder_name": "mobilenet_v2", "encoder_depth": 5, "decoder_use_norm": False}),
    ("Segformer", {"encoder_name": "mit_b0"}),
    ("Segformer", {"encoder_name": "mit_b1", "in_channels": 4, "classes": 1}),
    ("Segformer", {"encoder_name": "mit_b2", "encoder_depth": 4, "in_channels": 1}),
    ("Segformer", {"encoder_name": "mit_b3", "decoder_segmentation_channels": 96}),
    ("Segformer", {"encoder_name": "resnet18", "aux_params": {"classes": 3, "dropout": None}}),
    ("Segformer", {"encoder_name": "resnet34", "encoder_depth": 3, "activation": "sigmoid"}),
    ("DeepLabV3Plus", {"encoder_name": "mit_b0", "encoder_output_stride": 8}),
    ("UPerNet", {"encoder_name": "resnet34", "in_channels": 4}),
    ("UPerNet", {"encoder_name": "mit_b0", "in_channels": 1, "classes": 1}),
    ("UPerNet", {"encoder_name": "resnet50", "encoder_depth": 4, "decoder_channels": 64}),
    (
        "UPerNet",
        {
            "encoder_name": "mobilenet_v2",
            "encoder_depth": 3,
            "decoder_use_norm": False,
            "activation": "sigmoid",
            "aux_params": {"classes": 3, "dropout": None},
        },
    ),
    ("DeepLabV3", {"encoder_name": "mit_b1", "encoder_output_stride": 16}),
    ("PSPNet", {"encoder_name": "mit_b0", "encoder_depth": 4}),
    ("FPN", {"encoder_name": "resnet34", "in_channels": 4}),
    (
        "FPN",
        {
            "encoder_name": "resnet18",
            "classes": 1,
            "decoder_merge_policy": "cat",
            "decoder_pyramid_channels": 24,
            "decoder_segmentation_channels": 64,
            "decoder_interpolation": "bilinear",
        },
    ),
    ("Unet", {"encoder_name": "resnet34", "in_channels": 4}),
    ("Unet", {"encoder_name": "mit_b0", "in_channels": 4}),
    ("Unet", {"encoder_name": "resnet50", "classes": 1}),
    ("Unet", {"encoder_name": "vgg11", "in_channels": 4, "decoder_channels": (48, 32, 16, 8, 8)}),
    (
        "Unet",
        {"encoder_name": "vgg16_bn", "encoder_depth": 4, "decoder_channels": (48, 32, 16, 8)},
    ),
    ("PSPNet", {"encoder_name": "vgg13_bn"}),
    ("Unet", {"encoder_name": "resnet18", "decoder_attention_type": "scse"}),
    ("Unet", {"encoder_name": "mobilenet_v2", "decoder_interpolation": "bilinear"}),
    ("Unet", {"encoder_name": "resnet18", "decoder_use_norm": False, "in_channels": 1}),
    (
        "Unet",
        {
            "encoder_name": "mobilenet_v2",
            "encoder_depth": 3,
            "decoder_channels": (48, 32, 16),
            "decoder_use_norm": {"type": "instancenorm", "affine": True},
            "decoder_attention_type": "scse",
            "decoder_interpolation": "bicubic",
            "aux_params": {"classes": 3, "dropout": None},
        },
    ),
    (
        "Unet",
        {
            "encoder_name": "resnet18",
            "encoder_depth": 4,
            "decoder_channels": (48, 32, 16, 8),
            "decoder_interpolation": "nearest-exact",
            "activation": "softmax2d",
        },
    ),
]

each_variant = pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=[f"{name}-{'-'.join(str(v) for v in options.values())}" for name, options in VARIANTS],
)


def pair(smp: Any, name: str, options: dict[str, Any]) -> tuple[Any, SegmentationModel]:
    """smp's model and ours, with the same weights and without dropout."""
    theirs = getattr(smp, name)(**{"encoder_weights": None, "classes": 5, **options})
    ours = getattr(fastseg, name)(**{"encoder_weights": None, "classes": 5, **options})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tensors belong to parts of the encoder")
        ours.load_state_dict(theirs.state_dict())
    for model in (theirs, ours):
        for module in model.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd | DropPath):
                module.p = 0.0
            elif type(module).__name__ == "DropPath":  # timm's
                module.drop_prob = 0.0
    return theirs, ours


def images(options: dict[str, Any], size: int = 64) -> torch.Tensor:
    return torch.randn(2, options.get("in_channels", 3), size, size)


def tuple_or(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def flat(outputs: Any) -> torch.Tensor:
    """Masks, and labels where the model has them, as one vector."""
    return torch.cat([t.flatten() for t in (outputs if isinstance(outputs, tuple) else (outputs,))])


@pytest.mark.parametrize("name", CLASSES)
def test_constructor(smp: Any, name: str) -> None:
    """Names, order and defaults of the arguments; ours may have more, by name only."""
    theirs = dict(inspect.signature(getattr(smp, name)).parameters)
    theirs.pop("kwargs")
    ours = inspect.signature(getattr(fastseg, name)).parameters
    more = [p for key, p in ours.items() if key not in theirs]
    assert [k for k in ours if k in theirs] == list(theirs)
    assert all(p.kind is p.KEYWORD_ONLY for p in more)
    for key, parameter in theirs.items():
        assert ours[key].default == parameter.default, key


@each_variant
def test_state_dict(smp: Any, name: str, options: dict[str, Any]) -> None:
    """The same names, shapes and order, except stages that smp builds and never runs."""
    theirs, ours = pair(smp, name, options)
    expected = {
        key: value.shape
        for key, value in theirs.state_dict().items()
        if key not in ours.unused_keys([key])
    }
    assert {key: value.shape for key, value in ours.state_dict().items()} == expected
    assert list(ours.state_dict()) == list(expected)
    if options.get("encoder_depth", 3 if name == "PSPNet" else 5) == 5:
        assert len(expected) == len(theirs.state_dict())


@each_variant
def test_outputs_in_float32(smp: Any, name: str, options: dict[str, Any]) -> None:
    theirs, ours = pair(smp, name, options)
    x = images(options)
    for training in (False, True):
        theirs.train(training), ours.train(training)
        with torch.no_grad():
            assert relative_error(flat(ours(x)), flat(theirs(x))) <= 1e-5
    for key, value in ours.state_dict().items():
        assert relative_error(value.float(), theirs.state_dict()[key].float()) <= 1e-5, key


# Rounding errors grow on the way back through batch norms of random networks, in float32 to where
# they say nothing: in float64 what is left is far below any difference of the functions.
@each_variant
@pytest.mark.parametrize("training", [False, True])
def test_gradients(smp: Any, name: str, options: dict[str, Any], training: bool) -> None:
    if options["encoder_name"] in ("resnet101", "resnet152", "mit_b3"):
        pytest.skip("as a smaller one, only deeper: compared in float32")
    theirs, ours = (model.double().train(training) for model in pair(smp, name, options))
    # At one pixel batch norm multiplies rounding errors by 1 / sqrt(eps).
    x = images(options, 64 if name in ("PSPNet", "Unet") else 32).double().requires_grad_()
    expected = flat(theirs(x))
    direction = torch.randn_like(expected)
    (expected_x,) = torch.autograd.grad(expected @ direction, x, retain_graph=True)
    (expected @ direction).backward(inputs=list(theirs.parameters()))
    result = flat(ours(x))
    assert relative_error(result, expected) <= 1e-10
    (result @ direction).backward(inputs=[x, *ours.parameters()])
    assert relative_error(x.grad, expected_x) <= 1e-7
    largest = max(float(p.grad.norm()) for p in theirs.parameters() if p.grad is not None)
    truth = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        difference = float((parameter.grad - truth[key].grad).norm())
        # Biases before a batch norm have no gradient but rounding errors.
        assert difference <= 1e-7 * max(float(truth[key].grad.norm()), 1e-3 * largest), key


@each_variant
def test_load_checkpoint(smp: Any, name: str, options: dict[str, Any]) -> None:
    """Everything that is in the weights is read off them."""
    theirs, ours = pair(smp, name, options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tensors belong to parts of the encoder")
        loaded = fastseg.load_checkpoint(theirs.state_dict())
    assert type(loaded) is type(ours)
    state_dict = loaded.state_dict()
    assert list(state_dict) == list(ours.state_dict())
    for option in ("decoder_attention_type", "decoder_channels"):
        assert option not in options or tuple_or(loaded._arguments[option]) == options[option]
    assert all(torch.equal(state_dict[key], value) for key, value in ours.state_dict().items())
    assert loaded.encoder.depth == ours.encoder.depth


@pytest.mark.parametrize("size", [(33, 47), (1, 70), (50, 31)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_unet_of_any_size(smp: Any, size: tuple[int, int], interpolation: str) -> None:
    encoder = "resnet18" if interpolation == "nearest" else "vgg11"
    if encoder == "vgg11" and min(size) < 32:
        pytest.skip("smp's VGG leaves nothing of it")
    options = {"encoder_name": encoder, "decoder_interpolation": interpolation}
    theirs, ours = (model.double() for model in pair(smp, "Unet", options))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    for training in (False, True):
        if training and min(size) < 33:
            continue  # batch norm over so few pixels multiplies rounding errors
        expected, result = theirs.train(training)(x), ours.train(training)(x)
        assert relative_error(result, expected) <= 1e-10
    assert torch.equal(ours.eval().predict_labels(x), theirs.eval()(x).argmax(1).byte())


def test_dropped_stages_are_named(smp: Any) -> None:
    theirs = smp.PSPNet("resnet18", encoder_weights=None)
    ours = fastseg.PSPNet("resnet18", encoder_weights=None)
    with pytest.warns(UserWarning, match=r"60 tensors .* encoder\.layer3\.\*, encoder\.layer4\.\*"):
        ours.load_state_dict(theirs.state_dict())
    with pytest.warns(UserWarning, match=r"encoder\.layer4"):
        fastseg.load_checkpoint(theirs.state_dict())


@pytest.mark.parametrize("name", CLASSES)
def test_folders_are_exchanged(smp: Any, name: str, tmp_path: Path) -> None:
    encoder = "mit_b0" if name == "Segformer" else "resnet18"
    options = {"encoder_name": encoder, "in_channels": 2}
    if name == "PSPNet":  # smp needs all of the encoder
        options |= {"encoder_depth": 5, "upsampling": 32}
    theirs, ours = pair(smp, name, options)
    x = images(options)
    theirs.eval().save_pretrained(tmp_path / "theirs")
    ours.eval().save_pretrained(tmp_path / "ours")
    with torch.no_grad():
        loaded = SegmentationModel.from_pretrained(tmp_path / "theirs")
        assert relative_error(loaded(x), theirs(x)) <= 1e-5
        loaded = smp.from_pretrained(tmp_path / "ours").eval()
        assert torch.equal(loaded(x), theirs(x))


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("PSPNet", "resnet18"), ("DeepLabV3Plus", "resnet18"), ("Segformer", "mit_b0")],
)
def test_initial_weights_have_the_same_distribution(smp: Any, name: str, encoder: str) -> None:
    theirs, ours = (
        getattr(library, name)(encoder, encoder_weights=None, in_channels=5, classes=9)
        for library in (smp, fastseg)
    )
    truth = dict(theirs.named_parameters())
    for key, value in ours.named_parameters():
        if value.numel() < 2000:
            continue
        expected = truth[key]
        assert float(value.detach().std() / expected.detach().std()) == pytest.approx(1, abs=0.1)
        # Uniform or normal: the largest values tell.
        ends = [float(v.detach().abs().max() / v.detach().std()) for v in (value, expected)]
        assert (ends[0] < 2) == (ends[1] < 2), key


def test_frozen_encoder(smp: Any) -> None:
    theirs, ours = pair(smp, "DeepLabV3Plus", {"encoder_name": "resnet18"})
    for model in (theirs, ours):
        model.freeze_encoder()
        model.train()
    expected = copy.deepcopy(ours.encoder.state_dict())
    ours.loss(images({}), torch.zeros(2, 64, 64, dtype=torch.int64)).backward()
    for module, peer in zip(ours.encoder.modules(), theirs.encoder.modules(), strict=False):
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.training == peer.training is False
    assert all(p.grad is None for p in ours.encoder.parameters())
    assert all(torch.equal(v, expected[k]) for k, v in ours.encoder.state_dict().items())
    ours.unfreeze_encoder()
    assert ours.encoder.training and all(p.requires_grad for p in ours.parameters())
