"""window_filter's CUDA kernels on the CPU: what is not finite, crops, what they do not take."""

from __future__ import annotations

import pytest
import torch

from fastseg import BackendUnavailable, use_backend, window_filter


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


@pytest.mark.parametrize("which", ("values", "features"))
def test_what_is_not_a_number_stays_in_its_window(emulated_core, which):
    inputs = {"values": random(1, 3, 9, 150), "features": random(1, 2, 9, 150)}
    inputs[which][0, 1, 4, 70] = float("nan")
    with use_backend("native"):
        result = window_filter(**inputs, radius=2)
    label = slice(1, 2) if which == "values" else slice(None)
    assert result[0, label, 2:7, 68:73].isnan().all()
    assert result.isnan().sum() == 25 * (1 if which == "values" else 3)


@pytest.mark.parametrize("which", ("values", "features"))
def test_gradients_next_to_what_is_not_a_number(emulated_core, which):
    """The gradient to a pixel's features knows the values and features of its window alone."""
    inputs = {"values": random(1, 3, 9, 90), "features": random(1, 2, 9, 90)}
    inputs[which][0, 1, 4, 70] = float("nan")
    features = inputs["features"].requires_grad_()
    with use_backend("native"):
        result = window_filter(inputs["values"], features, 2)
        (grad,) = torch.autograd.grad(result, features, torch.ones_like(result))
    assert grad[0, :, 2:7, 68:73].isnan().all()
    assert grad.isnan().sum() == 25 * 2


def test_a_window_of_infinite_reach_and_equal_features_sums_the_image(emulated_core):
    values = torch.ones(1, 1, 5, 200)
    with use_backend("native"):
        result = window_filter(values, torch.full((1, 8, 5, 200), 7.3), 2**31 - 1)
    assert torch.equal(result, torch.full_like(values, 1000.0))


def test_crops_are_read_in_place(emulated_core):
    values, features = random(1, 4, 12, 90), random(1, 3, 12, 90)
    crop = (..., slice(2, 9), slice(3, 80))
    with use_backend("native"):
        ours = window_filter(values[crop], features[crop], 3)
        assert torch.equal(ours, window_filter(values[crop].clone(), features[crop].clone(), 3))


def test_more_features_than_the_kernels_take(emulated_core):
    values, features = random(1, 2, 4, 5), random(1, 9, 4, 5)
    with use_backend("native"), pytest.raises(BackendUnavailable, match="9 features"):
        window_filter(values, features, 1)
    launches = emulated_core.cuda_on_cpu.launches()
    torch.testing.assert_close(
        window_filter(values, features, 1),
        window_filter(values.double(), features.double(), 1).float(),
    )
    assert emulated_core.cuda_on_cpu.launches() == launches
