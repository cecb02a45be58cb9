"""What holds for every model inside torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch
from model_cases import CASES, ModelCase

# Tracing takes seconds per model, so two cases are left out whose modules are all traced by others:
# separable ASPP and MobileNetV2 in deeplabv3plus, pyramids and PSPNet in pspnet.
UNTRACED = ("deeplabv3-separable-4-channels", "pspnet-cut-later")
QUICK = ("pspnet",)
each_traced = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in QUICK else pytest.mark.slow)
        for case in CASES
        if case.name not in UNTRACED
    ],
)


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()


@each_traced
def test_predict_of_padded_images_is_one_graph(case: ModelCase) -> None:
    model, x = case.model(), case.images(2)
    compiled = torch.compile(model.predict_labels, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), model.predict_labels(x))


@each_traced
def test_training_step_is_one_graph(case: ModelCase) -> None:
    model, x = case.model(training=True).double(), case.images().double()
    target = case.target(model, x)
    expected = model.loss(x, target)
    expected.backward()
    truth = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = torch.compile(model.loss, fullgraph=True, backend="aot_eager")(x, target)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, truth[name], msg=name)


@each_traced
def test_export_with_padded_images(case: ModelCase) -> None:
    model, x = case.model().double(), case.images(2).double()
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))


def test_forward_of_padded_images_is_one_graph() -> None:
    """The base class's forward; what differs between models is traced with predict, above."""
    case = next(case for case in CASES if case.name in QUICK)
    model, x = case.model(), case.images(2)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
