"""What holds for every model inside torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch
from model_cases import ModelCase, each_model


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()


@each_model
@pytest.mark.parametrize("index", [0, 2])
def test_compile_whole(case: ModelCase, index: int) -> None:
    """forward and predict are one graph each, also where the input is padded."""
    model, x = case.model(), case.images(index)
    with torch.no_grad():
        logits, labels = model(x), model.predict(x)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), logits)
        compiled_predict = torch.compile(model.predict, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled_predict(x), labels)


@each_model
def test_compile_training_step(case: ModelCase) -> None:
    model, x = case.model(training=True).double(), case.images().double()
    target = case.target(model, x)
    expected = model.loss(x, target)
    expected.backward()
    truth = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    step = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    loss = step(x, target)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, truth[name], msg=name)


@each_model
def test_export(case: ModelCase) -> None:
    model, x = case.model(), case.images()
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), model(x))
