"""gaussian_filter: recorded exact sums, identities, far points, precision."""

from __future__ import annotations

import numpy
import pytest
import torch
from op_cases import Variant, variants

from fastseg import gaussian_filter, use_backend
from fastseg.registry import ALL_OPS
from fastseg.testing import relative_error

each_variant = pytest.mark.parametrize("variant", variants(ALL_OPS["gaussian_filter"]), ids=str)


@each_variant
@pytest.mark.parametrize("case", ["rand_a_24x31x5", "rand_d_19x22x2"])
@pytest.mark.parametrize("kernel", ["gauss", "bil"])
def test_recorded_exact_sums(shared_data, variant: Variant, case: str, kernel: str):
    """The filter of softmax(-unary), computed in float64 by other code."""
    data = numpy.load(shared_data / "crf" / f"{case}.npz")
    values = torch.from_numpy(data["unary"]).neg().softmax(0)[None]
    features = torch.from_numpy(data[f"feat_{kernel}"])[None]
    expected = torch.from_numpy(data[f"exact_{kernel}_no"])[None]
    with variant():
        assert relative_error(gaussian_filter(values, features), expected) < 4e-7
        double = gaussian_filter(values.double(), features.double())
    # What was recorded as float32 cannot be compared to more digits.
    digits = 1e-12 if expected.dtype is torch.float64 else 6e-8
    assert relative_error(double, expected) < max(digits, 6e-8)


@each_variant
def test_one_point_is_itself(variant: Variant):
    values = torch.randn(2, 3, 1)
    with variant():
        assert torch.equal(gaussian_filter(values, torch.randn(2, 4, 1)), values)


@each_variant
def test_equal_features_give_the_sum_of_all(variant: Variant):
    values = torch.randint(0, 9, (1, 3, 100)).float()  # exact sums
    with variant():
        result = gaussian_filter(values, torch.full((1, 2, 100), 7.3))
    assert torch.equal(result, values.sum(2, keepdim=True).expand_as(values))


@each_variant
def test_groups_without_contact_are_filtered_apart(variant: Variant):
    """Weights that are zero in float32 are left out, whole tiles of them unread."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 2, 300, generator=generator)
    features = torch.randn(1, 3, 300, generator=generator)
    features[:, :, 130:] += 1000
    with variant():
        together = gaussian_filter(values, features)
        apart = [gaussian_filter(values[..., s], features[..., s]) for s in _HALVES]
    assert relative_error(together, torch.cat(apart, 2)) < 1e-6


_HALVES = (slice(0, 130), slice(130, 300))


@each_variant
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_give_nan_where_they_are(variant: Variant, bad: float):
    values, features = torch.rand(1, 2, 200), torch.randn(1, 2, 200)
    features[..., :128] += 1e6  # far from the bad point, which lies in a tile of its own
    features[0, 1, 150] = bad
    with variant():
        result = gaussian_filter(values, features)
    assert result[..., 150].isnan().all()


def test_the_sum_of_many_keeps_its_digits():
    """5000 positive terms; a plain running sum in float32 loses a digit more."""
    values = torch.rand(1, 1, 5000, generator=torch.Generator().manual_seed(0))
    features = torch.linspace(0, 3, 5000)[None, None]
    with use_backend("native"):
        result = gaussian_filter(values, features)
        truth = gaussian_filter(values.double(), features.double())
    assert relative_error(result, truth) < 2e-7


def test_wide_features_for_narrow_values():
    """bfloat16 positions would be useless: features keep their own dtype."""
    values, features = torch.rand(1, 3, 200).bfloat16(), 50 * torch.rand(1, 5, 200)
    features.requires_grad_()
    result = gaussian_filter(values, features)
    assert result.dtype is torch.bfloat16
    expected = gaussian_filter(values.float(), features).bfloat16()
    assert torch.equal(result, expected)
    assert torch.autograd.grad(result.sum(), features)[0].dtype is torch.float32
