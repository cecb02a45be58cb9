"""What holds for every model under the transforms of torch.func."""

from __future__ import annotations

import pytest
import torch
from model_cases import CASES, ModelCase
from torch.func import functional_call, grad, vmap

QUICK = ("deeplabv3plus", "fcn-vgg16")
EACH = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case.name in QUICK else pytest.mark.slow)
        for case in CASES
    ],
)


def close(ours: torch.Tensor, truth: torch.Tensor) -> None:
    torch.testing.assert_close(ours, truth, rtol=1e-7, atol=1e-9 * float(truth.abs().max() + 1))


@EACH
def test_an_ensemble_runs_in_one_call(case: ModelCase) -> None:
    model, x = case.model().double(), case.images(batch=1).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    stacked = {name: torch.stack([p, 1.1 * p]) for name, p in parameters.items()}
    ours = vmap(lambda values: functional_call(model, values, (x,)))(stacked)
    for i in range(2):
        member = {name: values[i] for name, values in stacked.items()}
        close(ours[i], functional_call(model, member, (x,)).detach())


@EACH
def test_gradients_of_every_image(case: ModelCase) -> None:
    model, x = case.model().double(), case.images(batch=2).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
        return functional_call(model, values, (image[None],)).square().mean()

    given = x.contiguous(memory_format=torch.channels_last)
    ours = vmap(grad(loss), in_dims=(None, 0))(parameters, given)
    for i in range(2):
        for name, truth in grad(loss)(parameters, x[i]).items():
            close(ours[name][i], truth)
