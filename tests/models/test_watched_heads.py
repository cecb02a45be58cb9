"""A hook on the segmentation head changes nothing: the activation still follows the upsampling."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fastseg import FCN, LRASPP, DeepLabV1, DeepLabV3
from fastseg.models import SegmentationModel

MODELS: dict[str, Callable[[str], SegmentationModel]] = {
    "fcn": lambda name: FCN("resnet18", encoder_weights=None, classes=3, activation=name),
    "deeplabv1": lambda name: DeepLabV1(
        "resnet18", encoder_weights=None, classes=3, activation=name, decoder_hidden=8
    ),
    "lraspp": lambda name: LRASPP(encoder_weights=None, classes=3, activation=name),
    "deeplabv3": lambda name: DeepLabV3(
        "resnet18", encoder_weights=None, classes=3, activation=name, align_corners=False
    ),
}


@pytest.mark.parametrize("activation", ["identity", "sigmoid", "softmax2d"])
@pytest.mark.parametrize("name", MODELS)
def test_a_watched_head(name, activation):
    torch.manual_seed(0)
    model = MODELS[name](activation).double().eval()
    x = torch.randn(1, 3, 45, 61, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        shapes = []
        for part in (model.segmentation_head, model.segmentation_head[2]):
            handle = part.register_forward_hook(lambda _, inputs, y: shapes.append(y.shape))
            found = model(x)
            handle.remove()
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert len(shapes) == 2
    assert not model.segmentation_head[2]._forward_pre_hooks
