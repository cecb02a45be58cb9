"""Every family of encoders that smp has, in its models, accelerated and as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import fastseg
from fastseg.testing import relative_error

# The smallest of each family; "tu-" is any encoder of timm by its name. Those of mit, convnext and
# mambaout have no features at stride 2: smp has a map of 0 channels there.
ENCODERS = (
    "resnet18",
    "mit_b0",
    "efficientnet-b0",
    "timm-efficientnet-b0",
    "timm-tf_efficientnet_lite0",
    "timm-skresnet18",
    "mobilenet_v2",
    "mobileone_s0",
    "tu-resnest14d",
    "tu-convnext_atto",
)
MORE_ENCODERS = (
    "resnext50_32x4d",
    "mit_b1",
    "vgg11",
    "vgg11_bn",
    "dpn68",
    "densenet121",
    "se_resnet50",
    "se_resnext50_32x4d",
    "inceptionv4",
    "inceptionresnetv2",
    "xception",
    "tu-resnet18",
    "tu-mobilenetv3_small_050",
    "tu-regnetx_002",
    "tu-gernet_s",
    "tu-res2net50_26w_4s",
    "tu-hrnet_w18_small",
    "tu-mambaout_femto",
    "tu-swin_tiny_patch4_window7_224",
    "tu-efficientvit_b0",
)
MODELS = ("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PAN", "UPerNet", "Segformer")
DILATED = ("PSPNet", "DeepLabV3", "DeepLabV3Plus")


def make(smp: Any, name: str, encoder: str) -> Any:
    """A model with random weights; skips where smp has none of this encoder."""
    options = {"decoder_channels": (32, 24, 16, 12, 8)} if name.startswith("Unet") else {}
    if encoder.startswith("tu-swin"):
        options["img_size"] = 64
    try:
        model = getattr(smp, name)(encoder, encoder_weights=None, classes=3, **options)
    except (
        ValueError,
        TypeError,
        NotImplementedError,
        KeyError,
        RuntimeError,
        AssertionError,  # timm's, of an encoder that it does not dilate
    ) as error:
        pytest.skip(f"smp: {error}")
    for module in model.modules():
        if "Drop" in type(module).__name__ and hasattr(module, "p"):
            module.p = 0.0
    return model.eval()


def check(smp: Any, name: str, encoder: str) -> None:
    torch.manual_seed(0)
    theirs = make(smp, name, encoder).double()
    ours = copy.deepcopy(theirs)
    report = fastseg.accelerate(ours, image_size=None)
    assert report.swapped
    size = 128 if name == "PAN" else 64  # smp's PAN halves its features three times
    x = torch.randn(1, 3, size, size, dtype=torch.float64)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            try:
                expected = theirs(x)
            except Exception as error:  # a pair that smp itself cannot run
                pytest.skip(f"smp: {type(error).__name__}: {error}")
            found = ours(x)
        assert relative_error(found, expected) <= 1e-9
    found.sum().backward()
    labels = fastseg.predict_labels(ours, x)
    chosen = expected.gather(1, labels[:, None].long())
    assert bool((chosen >= expected.amax(1, True) - 1e-6).all())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_unet_with_every_family(peers: Any, encoder: str) -> None:
    check(peers("segmentation_models_pytorch"), "Unet", encoder)


@pytest.mark.parametrize("name", [*MODELS[1:], *DILATED])
def test_every_model_with_features_of_no_channels(peers: Any, name: str) -> None:
    check(peers("segmentation_models_pytorch"), name, "mit_b0")


@pytest.mark.slow
@pytest.mark.parametrize("encoder", MORE_ENCODERS)
def test_unet_with_more_families(peers: Any, encoder: str) -> None:
    check(peers("segmentation_models_pytorch"), "Unet", encoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS[1:], *DILATED])
@pytest.mark.parametrize("encoder", [*ENCODERS, *MORE_ENCODERS])
def test_every_model_with_every_family(peers: Any, name: str, encoder: str) -> None:
    check(peers("segmentation_models_pytorch"), name, encoder)
