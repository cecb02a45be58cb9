"""window_filter: identities, borders, what is not finite, precision of real sizes."""

from __future__ import annotations

import pytest
import torch
from op_cases import Variant, variants

from fastseg import gaussian_filter, use_backend, window_filter
from fastseg.registry import ALL_OPS
from fastseg.testing import relative_error

each_variant = pytest.mark.parametrize("variant", variants(ALL_OPS["window_filter"]), ids=str)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@each_variant
def test_a_window_that_spans_the_image_is_the_exact_filter(variant: Variant):
    values, features = random(2, 3, 6, 70), random(2, 2, 6, 70)
    whole = gaussian_filter(values.double().flatten(2), features.double().flatten(2))
    with variant():
        assert relative_error(window_filter(values, features, 100).flatten(2), whole) < 1e-6


@each_variant
@pytest.mark.parametrize("radius", (1, 4))
def test_equal_features_count_the_pixels_of_the_window(variant: Variant, radius: int):
    height, width = 7, 83
    ones, features = torch.ones(1, 1, height, width), torch.full((1, 2, height, width), 7.3)

    def reached(count: int) -> torch.Tensor:
        i = torch.arange(count)
        return (i + radius).clamp(max=count - 1) - (i - radius).clamp(min=0) + 1

    with variant():
        result = window_filter(ones, features, radius)
    assert torch.equal(result[0, 0], (reached(height)[:, None] * reached(width)).float())


@each_variant
@pytest.mark.parametrize("which", ("values", "features"))
def test_what_is_not_a_number_stays_in_its_window(variant: Variant, which: str):
    inputs = {"values": random(1, 3, 9, 150), "features": random(1, 2, 9, 150)}
    inputs[which][0, 1, 4, 70] = float("nan")
    with variant():
        result = window_filter(**inputs, radius=2)
    label = slice(1, 2) if which == "values" else slice(None)
    assert result[0, label, 2:7, 68:73].isnan().all()
    assert result.isnan().sum() == 25 * (1 if which == "values" else 3)


@each_variant
def test_radius_0_gives_the_values(variant: Variant):
    values = random(2, 5, 4, 33)
    with variant():
        assert torch.equal(window_filter(values, random(2, 1, 4, 33), 0), values)


def test_small_weights_keep_their_digits():
    """exp(-78.125) to float32's precision: its argument, exact, is not rounded on the way."""
    values = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    features = torch.tensor([0.0, 12.5]).view(1, 1, 1, 2)
    with use_backend("native"):
        result = window_filter(values, features, 1)[..., 0]
        truth = window_filter(values.double(), features.double(), 1)[..., 0]
    assert relative_error(result, truth) < 2e-7


def test_gradients_of_any_order_with_constant_features():
    values, features = random(1, 2, 4, 5, dtype=torch.float64), random(1, 2, 4, 5).double()
    values.requires_grad_()
    (grad,) = torch.autograd.grad(
        window_filter(values, features, 2).pow(3).sum(), values, create_graph=True
    )
    assert torch.autograd.gradcheck(lambda v: window_filter(v, features, 2).pow(3).sum(), values)
    assert torch.autograd.grad(grad.sum(), values)[0].abs().sum() > 0
