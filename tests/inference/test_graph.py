"""Predictions as one CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fastseg
from fastseg import DeepLabV3, DeepLabV3Plus, PSPNet


def model(kind: type = DeepLabV3Plus, encoder: str = "mobilenet_v2") -> Any:
    network = kind(encoder, encoder_weights=None, classes=5).eval()
    # An untrained network's maps are so small that the bias alone would say what each pixel is.
    torch.nn.init.zeros_(network.segmentation_head[0].bias)
    return network


def test_says_what_it_needs() -> None:
    images = torch.randn(1, 3, 33, 33)
    with pytest.raises(ValueError, match=r"images is on cpu.*a CUDA device.*model\.predict_labels"):
        fastseg.capture(model(), images)
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        fastseg.capture(model().train(), images)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", (None, torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(
    ("kind", "encoder"),
    [(DeepLabV3Plus, "mobilenet_v2"), (DeepLabV3, "resnet18"), (PSPNet, "resnet18")],
)
def test_the_labels_of_predict_for_new_images(
    kind: type, encoder: str, dtype: torch.dtype | None
) -> None:
    """As it is, and fused in each dtype."""
    network = model(kind, encoder).cuda()
    network = network if dtype is None else fastseg.fuse(network, dtype)
    first, second = (torch.randn(2, 3, 65, 81, device="cuda") for _ in range(2))
    predict = fastseg.capture(network, first)
    one, two = predict(first), predict(second)
    assert torch.equal(one, network.predict_labels(first))
    assert torch.equal(two, network.predict_labels(second))
    assert not torch.equal(one, two)


@pytest.mark.gpu
def test_weights_changed_in_place_count() -> None:
    network, images = model().cuda(), torch.randn(1, 3, 65, 65, device="cuda")
    predict = fastseg.capture(network, images)
    other = model()
    network.load_state_dict(other.state_dict())
    assert torch.equal(predict(images), other.cuda().predict_labels(images))


@pytest.mark.gpu
def test_refuses_other_images() -> None:
    predict = fastseg.capture(model().cuda(), torch.randn(1, 3, 65, 65, device="cuda"))
    with pytest.raises(ValueError, match="has shape"):
        predict(torch.randn(1, 3, 65, 97, device="cuda"))
    with pytest.raises(ValueError, match="is on cpu"):
        predict(torch.randn(1, 3, 65, 65))
    with pytest.raises(TypeError, match="has dtype"):
        predict(torch.randn(1, 3, 65, 65, device="cuda").half())
    with pytest.raises(ValueError, match="as the model"):
        fastseg.capture(model(), torch.randn(1, 3, 65, 65, device="cuda"))
