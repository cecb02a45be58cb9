"""gaussian_filter's Triton kernels in the interpreter against the definition in float64."""

from __future__ import annotations

import itertools

import pytest
import torch

from fastseg import Backend, BackendUnavailable, gaussian_filter, use_backend
from fastseg.ops.gaussian_filter import triton_config, triton_filter
from fastseg.ops.gaussian_filter.samples import SAMPLES
from fastseg.testing import Maker, assert_as_accurate, poisoned_empty, relative_error

pytestmark = pytest.mark.interpreter


def run(function, values, features, backend=None) -> list[torch.Tensor]:
    """The result and both gradients."""
    leaves = [x.detach().clone().requires_grad_() for x in (values, features)]
    with use_backend(backend):
        out = function(*leaves)
        grad = Maker(torch.bfloat16, seed=1).tensor(*out.shape).to(out.dtype)
        return [out, *torch.autograd.grad(out, leaves, grad)]


def check(values: torch.Tensor, features: torch.Tensor) -> None:
    with poisoned_empty():
        ours = run(gaussian_filter, values, features, Backend.TRITON)
    peers = run(SAMPLES.peer, values, features)
    truths = run(SAMPLES.peer, values.double(), features.double())
    names = ("result", "to values", "to features")
    for name, *results in zip(names, ours, peers, truths, strict=True):
        assert_as_accurate(*results, what=name)


@pytest.mark.parametrize("sample", SAMPLES.samples, ids=lambda s: s.why)
def test_the_samples_of_the_op(sample):
    check(**sample.inputs(Maker()))


@pytest.mark.parametrize("sample", SAMPLES.samples[:-1], ids=lambda s: s.why)
def test_the_samples_of_the_op_with_the_rounding_of_tensor_cores(sample, tensor_core_sums):
    check(**sample.inputs(Maker()))


def test_positive_values_with_the_rounding_of_tensor_cores(tensor_core_sums):
    """Rounding towards zero does not average out there."""
    make = Maker()
    check(make.tensor(1, 5, 500).abs(), make.tensor(1, 3, 500, scale=0.5))


# Every block of labels full and with a rest, two blocks; one tile and more, full and with a rest;
# every number of features.
SHAPES = [
    (1, 1, 1, 1),
    (2, 2, 2, 63),
    (1, 16, 3, 64),
    (2, 17, 4, 65),
    (1, 32, 5, 128),
    (1, 33, 6, 129),
    (1, 64, 7, 40),
    (2, 65, 8, 70),
]


@pytest.mark.parametrize("batch, labels, dims, points", SHAPES)
def test_shapes(batch: int, labels: int, dims: int, points: int):
    make = Maker(torch.float16)  # numbers that all dtypes hold
    values, features = make.tensor(batch, labels, points), make.tensor(batch, dims, points)
    check(values.float(), features.float() * 0.7)


def test_the_shapes_reach_every_block_of_labels():
    blocks = {triton_config.label_block(labels) for _, labels, _, _ in SHAPES}
    assert blocks == set(triton_config.LABELS)
    assert {dims for _, _, dims, _ in SHAPES} == set(range(1, triton_config.MAX_DIMS + 1))


@pytest.mark.parametrize("values_dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("features_dtype", (torch.float32, torch.bfloat16, torch.float16))
def test_dtypes(values_dtype, features_dtype):
    make = Maker(torch.bfloat16)
    values = make.tensor(1, 5, 80).to(values_dtype)
    features = (4 * make.tensor(1, 3, 80)).to(features_dtype)
    ours = run(gaussian_filter, values, features, Backend.TRITON)
    truths = run(SAMPLES.peer, values.double(), features.double())
    for result, truth in zip(ours, truths, strict=True):
        assert relative_error(result, truth) < 0.6 * torch.finfo(result.dtype).eps + 2e-7
    assert [x.dtype for x in ours] == [values_dtype, values_dtype, features_dtype]


def clusters() -> tuple[torch.Tensor, torch.Tensor]:
    """Two images of points that come mixed from groups far apart, others in each image."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(2, 3, 300, generator=generator)
    features = torch.randn(2, 2, 300, generator=generator)
    groups = torch.randint(0, 3, (2, 300), generator=generator)
    features[:, 0] += groups * torch.tensor([[30.0], [60.0]])
    return values, features


def test_far_tiles_are_left_out_and_their_lists_come_in_parts(monkeypatch):
    from fastseg.ops.gaussian_filter import triton_launch

    values, features = clusters()
    points = triton_launch.arrange(features)
    furthest = triton_launch.limit(300, torch.float32)
    whole = list(triton_launch.near_lists(points, furthest))
    assert len(whole) == 1
    _, near, counts = whole[0]
    # In order, the points of a group stand together: most of the 2 x 5 x 5 pairs are far.
    assert counts.sum() < 35
    gaps = torch.maximum(
        points.lows.view(2, 1, 5, 2) - points.highs.view(2, 5, 1, 2),
        points.lows.view(2, 5, 1, 2) - points.highs.view(2, 1, 5, 2),
    ).clamp(min=0)
    is_near = (gaps.square().sum(3) <= furthest).view(10, 5)
    for row in range(10):
        assert near[row, : counts[row]].tolist() == is_near[row].nonzero()[:, 0].tolist()

    result = run(gaussian_filter, values, features, Backend.TRITON)
    monkeypatch.setattr(triton_launch, "LIST_BYTES", 3 * 5 * 4)  # three rows: across the images
    assert len(list(triton_launch.near_lists(points, furthest))) == 4
    parts = run(gaussian_filter, values, features, Backend.TRITON)
    assert all(map(torch.equal, result, parts))
    check(values, features)


def test_more_tiles_than_are_listed_at_once():
    """One label, one feature: 131 tiles, of which a point sees the nearest."""
    from fastseg.ops.gaussian_filter import triton_launch

    count = 130 * triton_config.TILE + 3
    assert count > triton_config.NEAR_BLOCK * triton_config.TILE
    features = torch.arange(count).flip(0)[None, None].float()
    points = triton_launch.arrange(features)
    assert torch.equal(points.order[0, :count], torch.arange(count).flip(0))
    ((_, near, counts),) = triton_launch.near_lists(points, 150.0**2)
    # The points are one apart, the next tiles 1, 65 and 129, the one after them 193.
    for row, (tiles, size) in enumerate(zip(near, counts.tolist(), strict=True)):
        expected = range(max(0, row - 3), min(131, row + 4))
        assert tiles[:size].tolist() == list(expected)


def test_what_is_left_out_is_less_than_rounding():
    from fastseg.ops.gaussian_filter.triton_launch import limit

    for points, dtype in itertools.product((1, 1000, 10**8), (torch.float32, torch.bfloat16)):
        weight = torch.tensor(-limit(points, dtype) / 2, dtype=torch.float64).exp().item()
        assert points * weight == pytest.approx(torch.finfo(dtype).eps / 2)


def test_order_along_the_curve():
    """The four cells of a square in the order of the letter Z, points of a cell as they came."""
    from fastseg.ops.gaussian_filter.triton_launch import arrange

    features = torch.tensor([[[1.5, 0.5, 1.2, 0.1, 0.2], [1.5, 1.1, 0.3, 0.2, 0.1]]])
    assert arrange(features).order[0, :5].tolist() == [3, 4, 2, 1, 0]


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # NumPy's, in the interpreter
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_features_that_are_not_finite_give_nan_where_they_are(bad: float):
    values, features = torch.rand(1, 2, 200), torch.randn(1, 2, 200)
    features[..., :128] += 1e6
    features[0, 1, 150] = bad
    with use_backend(Backend.TRITON):
        result = gaussian_filter(values, features)
    assert result[..., 150].isnan().all()
    finite = torch.arange(200) != 150
    if bad == bad:  # NaN is at an unknown distance from all
        assert result[..., finite].isfinite().all()


def test_no_difference_cancels_however_far_the_points_are_from_zero():
    make = Maker()
    values, features = make.tensor(1, 2, 100).abs(), make.tensor(1, 5, 100)
    features = (features * 64).round() / 64  # exact after the shift, too
    with use_backend(Backend.TRITON):
        assert torch.equal(
            gaussian_filter(values, features + 4096), gaussian_filter(values, features)
        )


def test_the_same_bits_every_time_and_in_any_batch():
    values, features = clusters()
    first, second = (run(gaussian_filter, values, features, Backend.TRITON) for _ in range(2))
    assert all(map(torch.equal, first, second))
    with use_backend(Backend.TRITON):
        assert torch.equal(gaussian_filter(values[1:], features[1:]), first[0][1:])


def test_precision_follows_torch_and_the_dtype():
    single, half = torch.ones(1), torch.ones(1, dtype=torch.bfloat16)
    before = torch.get_float32_matmul_precision()
    try:
        for setting, expected in (("highest", "tf32x3"), ("high", "tf32")):
            torch.set_float32_matmul_precision(setting)
            assert triton_config.precision(single) == expected
            assert triton_config.precision(half) == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)


def test_says_what_it_does_not_take():
    values, features = torch.rand(1, 2, 9), torch.rand(1, 2, 9)
    for match, arguments in (
        ("float64", (values.double(), features)),
        ("9 features", (values, torch.rand(1, 9, 9))),
    ):
        with use_backend(Backend.TRITON), pytest.raises(BackendUnavailable, match=match):
            gaussian_filter(*arguments)
    assert "tests" in triton_filter.passed_over("forward", values=values, features=features)
    vast = torch.empty(1, 1, 1).expand(1, 1, 1 << 27)
    reason = triton_filter.unsupported_reason("forward", values=vast, features=vast)
    assert reason is not None and "134217728 points" in reason
