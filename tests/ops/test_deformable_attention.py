"""deformable_attention: grid_sample's own results, borders, what is not finite, mixed dtypes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_cases import Variant, variants

from fastseg import deformable_attention
from fastseg.ops.deformable_attention.samples import SAMPLES
from fastseg.registry import ALL_OPS
from fastseg.testing import Maker, relative_error

each_variant = pytest.mark.parametrize(
    "variant", variants(ALL_OPS["deformable_attention"]), ids=str
)
NAMES = ("value", "locations", "weights")
NAN = float("nan")


def on_borders(make: Maker) -> dict[str, Any]:
    """Middles of cells, edges of maps and places one cell outside: exact in every dtype."""
    levels = ((4, 8), (2, 4))
    places = torch.empty(1, 9, 2, 2, 3, 2, dtype=torch.float64)
    for i, (h, w) in enumerate(levels):
        steps = torch.arange(54).view(9, 2, 3)
        places[0, :, :, i, :, 0] = (steps % (2 * w + 5) - 2) / (2 * w)
        places[0, :, :, i, :, 1] = (steps // 2 % (2 * h + 5) - 2) / (2 * h)
    value = make.tensor(1, 40, 2, 5)
    return {
        "value": value,
        "shapes": levels,
        "locations": places.to(value),
        "weights": make.tensor(1, 9, 2, 2, 3),
    }


def with_gradients(function: Any, values: dict[str, Any]) -> list[torch.Tensor]:
    leaves = {n: values[n].clone().requires_grad_() for n in NAMES}
    result = function(**{**values, **leaves})
    grad = torch.cos(torch.arange(result.numel())).view(result.shape).to(result)
    return [result, *torch.autograd.grad(result, list(leaves.values()), grad)]


@each_variant
@pytest.mark.parametrize("which", ["random", "borders"])
def test_grid_sample_gives_the_same_and_the_same_gradients(variant: Variant, which: str):
    make = Maker(torch.float64)
    values = SAMPLES.samples[0].inputs(make) if which == "random" else on_borders(make)
    with variant():
        ours = with_gradients(deformable_attention, values)
    theirs = with_gradients(SAMPLES.other_peers["grid_sample"], values)
    for one, other in zip(ours, theirs, strict=True):
        assert relative_error(one, other) < 1e-14


@each_variant
def test_a_cell_s_middle_reads_the_cell(variant: Variant):
    h, w = 3, 5
    value = torch.arange(1.0, h * w + 1).view(1, h * w, 1, 1)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack([(x + 0.5) / w, (y + 0.5) / h], -1).view(1, h * w, 1, 1, 1, 2)
    with variant():
        result = deformable_attention(value, [(h, w)], places, torch.ones(1, h * w, 1, 1, 1))
    torch.testing.assert_close(result, value[:, :, 0])


@each_variant
@pytest.mark.parametrize("channels", (3, 32))
def test_what_is_not_finite_stays_where_it_is(variant: Variant, channels: int):
    """The head whose location or weight is NaN, and the places that a value reaches."""
    make = Maker()
    values = {
        "value": make.tensor(1, 12, 2, channels),
        "shapes": ((3, 4),),
        "locations": make.tensor(1, 6, 2, 1, 2, 2, scale=0.03) + 0.5,
        "weights": make.tensor(1, 6, 2, 1, 2),
    }
    values["locations"][0, 0, 1, 0, 0, 1] = NAN
    values["locations"][0, 1, 0, 0, 1, 0] = float("inf")  # outside, as any far place
    values["locations"][0, 2] = 9.0
    values["weights"][0, 2, 1, 0, 0] = NAN
    values["value"][0, 0] = NAN  # no place is near the corner
    values["value"][0, 11, 0, 0] = float("inf")
    with variant():
        result, of_value, of_locations, of_weights = with_gradients(deformable_attention, values)
    bad = result.unflatten(2, (2, channels)).isnan().all(3)[0]
    assert bad.nonzero().tolist() == [[0, 1], [2, 1]]
    assert result.isfinite().sum() == result.numel() - 2 * channels
    assert of_value.isfinite().all()
    assert of_weights.isnan().nonzero().tolist() == [[0, 0, 1, 0, 0]]
    assert of_locations[0, 1, 0, 0, 1].tolist() == [0.0, 0.0]


@each_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_places_keep_float32_beside_16_bit_values(variant: Variant, dtype: torch.dtype):
    values = SAMPLES.samples[0].inputs(Maker())
    values["value"] = values["value"].to(dtype)
    with variant():
        result, *grads = with_gradients(deformable_attention, values)
    exact = with_gradients(deformable_attention, {**values, "value": values["value"].float()})
    assert result.dtype is dtype and [g.dtype for g in grads] == [dtype, *[torch.float32] * 2]
    eps = torch.finfo(dtype).eps
    # The gradient that arrives is rounded as well.
    for one, other in zip([result, *grads], exact, strict=True):
        assert relative_error(one, other) < eps


def test_levels_may_come_as_a_tensor():
    values = SAMPLES.samples[0].inputs(Maker())
    levels = torch.tensor(values["shapes"])
    expected = deformable_attention(**values)
    assert torch.equal(deformable_attention(**{**values, "shapes": levels}), expected)
    for wrong, error in ((levels[0], ValueError), (levels.float(), TypeError)):
        with pytest.raises(error, match="shapes has"):
            deformable_attention(**{**values, "shapes": wrong})


def test_no_queries_leave_no_gradient():
    value = torch.ones(1, 4, 2, 3, requires_grad=True)
    places = torch.empty(1, 0, 2, 1, 2, 2)
    result = deformable_attention(value, [(2, 2)], places, places[..., 0])
    assert result.shape == (1, 0, 6)
    result.sum().backward()
    assert torch.equal(value.grad, torch.zeros(1, 4, 2, 3))


def test_a_uniform_map_counts_the_weights():
    """Inside, the four weights of a place sum to 1, whatever the place."""
    places = Maker(torch.float64).tensor(2, 50, 3, 2, 4, 2).sigmoid() * 0.5 + 0.25
    weights = Maker(torch.float64, seed=1).tensor(2, 50, 3, 2, 4)
    value = torch.ones(2, 4 * 4 + 6 * 8, 3, 2, dtype=torch.float64)
    result = deformable_attention(value, [(4, 4), (6, 8)], places, weights)
    expected = weights.sum((3, 4))[..., None].expand(-1, -1, -1, 2).flatten(2)
    torch.testing.assert_close(result, expected)
    assert F.mse_loss(result, expected) < 1e-25
