"""torch.jit.trace, which writes sizes down as constants, on models and ops: an error, not a graph
that is wrong for other sizes."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from model_cases import CASES, ModelCase

import fastseg

SAYS = r"^torch\.jit\.trace makes a constant of .*: use torch\.export"


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_models_say_what_to_use_instead(case: ModelCase) -> None:
    model, x = case.model(), case.images(1)
    with torch.no_grad(), pytest.raises(RuntimeError, match=SAYS):
        torch.jit.trace(model, x)


def test_onnx_by_tracing_says_so_too() -> None:
    case = next(case for case in CASES if case.name == "pspnet")
    with torch.no_grad(), pytest.raises(RuntimeError, match=SAYS):
        torch.onnx.export(case.model(), (case.images(1),), io.BytesIO(), dynamo=False)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: fastseg.upsample_bilinear(x, (x.shape[2] * 2, 8)),
        lambda x: fastseg.upsample_bilinear(x, x.shape[2:]),
        lambda x: fastseg.upsample_bilinear(x, scale_factor=2),
        lambda x: fastseg.upsample_argmax(x, (8, x.shape[3] * 2)),
        lambda x: fastseg.upsample_conv2d([x], torch.ones(2, 2, 3, 3), size=2 * x.shape[2]),
        lambda x: fastseg.upsample_conv2d([x, x[:, :, ::2, ::2]], torch.ones(2, 4, 3, 3)),
    ],
)
def test_ops_refuse_sizes_of_the_input(function: Callable[..., torch.Tensor]) -> None:
    with pytest.raises(RuntimeError, match=SAYS):
        torch.jit.trace(function, torch.randn(1, 2, 4, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: fastseg.upsample_bilinear(x, 8),
        lambda x: fastseg.upsample_argmax(x, (8, 6)),
        lambda x: fastseg.pyramid_pool(x, (1, 2)),
        lambda x: fastseg.dilated_conv2d(x, torch.ones(2, 1, 3, 3), None, 1, 2, 2, 2),
    ],
)
def test_ops_of_constant_sizes_are_right_for_other_inputs(
    function: Callable[..., torch.Tensor],
) -> None:
    traced = torch.jit.trace(function, torch.randn(1, 2, 4, 4))
    x = torch.randn(2, 2, 6, 5)
    assert torch.equal(traced(x), function(x))
