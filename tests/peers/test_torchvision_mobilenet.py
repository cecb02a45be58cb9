"""torchvision's MobileNetV3, its DeepLabV3 and LR-ASPP: features, outputs, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fastseg
from fastseg.models import LRASPP, DeepLabV3, export_checkpoint, make_encoder
from fastseg.testing import relative_error
from fastseg.testing.peers import declare_torchvision_ops

CLASSES = 3
CASES = {
    "lraspp_mobilenet_v3_large": ("torchvision-lraspp", LRASPP),
    "deeplabv3_mobilenet_v3_large": ("torchvision-deeplabv3-mobilenet", DeepLabV3),
}


@pytest.fixture(scope="module")
def torchvision() -> Any:
    declare_torchvision_ops()
    return pytest.importorskip("torchvision")


def trained(net: nn.Module) -> nn.Module:
    """As after some training: not the identity in eval mode."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(torchvision: Any, name: str) -> None:
    family, expected_class = CASES[name]
    more = {"aux_loss": True} if expected_class is DeepLabV3 else {}
    torch.manual_seed(0)
    theirs = trained(
        getattr(torchvision.models.segmentation, name)(
            weights=None, weights_backbone=None, num_classes=CLASSES, **more
        )
    )
    given = theirs.state_dict()
    ours = trained(fastseg.load_checkpoint(given))
    assert type(ours) is expected_class
    ours.load_state_dict(fastseg.load_checkpoint(given).state_dict())
    written = export_checkpoint(ours, family)
    assert written.keys() == given.keys()
    assert all(torch.equal(written[key], value) for key, value in given.items())
    theirs.double()
    ours.double()
    for size, training in (((49, 65), False), ((64, 48), False), ((64, 48), True)):
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        theirs.train(training).zero_grad()
        ours.train(training).zero_grad()
        if ours.auxiliary_head is not None:
            ours.auxiliary_head[3].eval()  # drops channels, torchvision's single values
        expected, found = theirs(x), ours(x)
        assert relative_error(found, expected["out"]) <= 1e-10
    expected["out"].square().sum().backward()
    found.square().sum().backward()
    known = {f.name: f for f in fastseg.models.checkpoints.FAMILIES}[family]
    truth = known.translated(
        {key: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    )
    grads = {key: p.grad for key, p in ours.named_parameters() if p.grad is not None}
    assert grads.keys() == truth.keys()
    # Before a batch norm a bias has no gradient but rounding, of the size of the others'.
    largest = max(grad.norm() for grad in truth.values())
    for key, grad in truth.items():
        assert (grads[key] - grad).norm() <= 1e-8 * torch.maximum(grad.norm(), 1e-4 * largest), key


@pytest.mark.parametrize("options", [{}, {"in_channels": 1, "depth": 3}], ids=str)
def test_encoder_is_torchvisions(torchvision: Any, options: dict[str, int]) -> None:
    torch.manual_seed(0)
    theirs = trained(torchvision.models.mobilenet_v3_large(weights=None)).double().eval()
    encoder = make_encoder("mobilenet_v3_large", **options).double().eval()
    weights = {k: v for k, v in theirs.state_dict().items() if k.startswith("features.")}
    if "in_channels" in options:
        first = "features.0.0.weight"
        weights[first] = weights[first].sum(1, keepdim=True)
    kept = {k: v for k, v in weights.items() if k in encoder.state_dict()}
    encoder.load_state_dict(kept)
    x = torch.randn(1, 1, 49, 65, dtype=torch.float64).expand(-1, encoder.in_channels, -1, -1)
    with torch.no_grad():
        features = encoder(x)
        y, expected = x.expand(-1, 3, -1, -1), [x]
        for index, layer in enumerate(theirs.features):
            y = layer(y)
            if index in (1, 3, 6, 12, 16):
                expected.append(y)
    assert [f.shape[1] for f in features] == encoder.out_channels
    for mine, given in zip(features, expected, strict=False):
        assert relative_error(mine, given) <= 1e-10


def test_initial_weights_are_distributed_as_torchvisions(torchvision: Any) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_large(weights=None).features.state_dict()
    ours = make_encoder("mobilenet_v3_large").state_dict()
    for name, value in ours.items():
        given = theirs[name.removeprefix("features.")].double()
        if value.dim() == 4 and value.numel() > 4000:
            assert abs(value.double().std() / given.std() - 1) < 0.1, name
        elif value.dim() == 1:
            assert torch.equal(value.double(), given), name
