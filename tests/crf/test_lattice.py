"""The lattice against pydensecrf's recorded arrays, and its laws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastseg import permutohedral_filter, use_backend
from fastseg.crf import Lattice

RECORDED = Path(__file__).parent / "recorded"
CASES = [
    (case, kernel) for case in ("rand_a_24x31x5", "rand_d_19x22x2") for kernel in ("gauss", "bil")
]
each_case = pytest.mark.parametrize(("case", "kernel"), CASES)
each_backend = pytest.mark.parametrize("backend", ["native", "reference"])


def recorded(case: str) -> Any:
    return np.load(RECORDED / f"{case}.npz")


def features_of(data: Any, kernel: str) -> torch.Tensor:
    return torch.from_numpy(data[f"feat_{kernel}"])


@each_backend
@each_case
def test_vertices_weights_and_neighbours_are_pydensecrfs(case: str, kernel: str, backend: str):
    data = recorded(case)
    with use_backend(backend):
        lattice = Lattice(features_of(data, kernel))
    rows, weights, neighbours = lattice.tables()
    expected_rows = torch.from_numpy(data[f"lat_{kernel}_offset"].astype(np.int64)).T + 1
    expected_weights = torch.from_numpy(data[f"lat_{kernel}_bary"]).T
    links = torch.from_numpy(data[f"lat_{kernel}_neighbors"].astype(np.int64)) + 1
    assert lattice.num_vertices == [links.shape[1]]
    assert torch.equal(weights, expected_weights)
    # The numbers may differ, by one permutation for all.
    ours_of = torch.full((links.shape[1] + 1,), -1)
    ours_of[0] = 0
    ours_of[expected_rows.flatten()] = rows.flatten()
    assert torch.equal(ours_of[expected_rows], rows)
    touched = ours_of >= 0  # those of the padding are touched by no pixel
    touched[0] = False
    vertices = torch.nonzero(touched).flatten()
    ours = neighbours[:, ours_of[vertices] - 1]
    theirs = ours_of[links[:, vertices - 1]]
    known = theirs >= 0
    assert torch.equal(ours[known], theirs[known])
    assert ((ours == 0) == (links[:, vertices - 1] == 0)).all()


@each_backend
@each_case
def test_filter_gives_pydensecrfs_numbers(case: str, kernel: str, backend: str):
    data = recorded(case)
    values = torch.from_numpy(data["val"]).unsqueeze(0)
    with use_backend(backend):
        lattice = Lattice(features_of(data, kernel))
    for transpose, name in ((False, "fwd"), (True, "rev")):
        expected = torch.from_numpy(data[f"lattice_{kernel}_{name}"]).unsqueeze(0)
        error = (lattice.filter(values, transpose) - expected).abs().max() / expected.abs().max()
        assert error < 1e-6


@each_case
def test_normalised_filters(case: str, kernel: str):
    """rand_d has all four normalisations, rand_a the symmetric one."""
    data = recorded(case)
    lattice = Lattice(features_of(data, kernel))
    q = torch.from_numpy(-data["unary"]).softmax(0).unsqueeze(0)
    names = {"none": "no", "before": "before", "after": "after", "symmetric": "symmetric"}
    compared = 0
    for normalization, name in names.items():
        before, after = (1.0 if s is None else s for s in lattice.scales(normalization))
        for suffix, transpose in (("", False), ("T", True)):
            key = f"filter{suffix}_{kernel}_{name}"
            if key not in data:
                continue
            first, last = (after, before) if transpose else (before, after)
            result = lattice.filter(q * first, transpose) * last
            expected = torch.from_numpy(data[key])
            assert (result[0] - expected).abs().max() <= 2e-6 * expected.abs().max(), key
            compared += 1
    assert compared >= 2


@each_case
def test_gradient_to_features_is_pydensecrfs_with_the_blur_orders_right(case: str, kernel: str):
    """Its gradient for (a, val) is that of val' K a with the blurs swapped: of a' K val."""
    data = recorded(case)
    features = features_of(data, kernel).unsqueeze(0).requires_grad_()
    a = torch.from_numpy(data[f"latgrad_{kernel}_a"]).unsqueeze(0)
    values = torch.from_numpy(data["val"]).unsqueeze(0)
    expected = torch.from_numpy(data[f"latgrad_{kernel}_dfeat"])
    errors = []
    for left, right in ((a, values), (values, a)):
        (grad,) = torch.autograd.grad(
            (left * permutohedral_filter(right, features)).sum(), features
        )
        errors.append(((grad[0] - expected).norm() / expected.norm()).item())
    assert min(errors) < 1e-5 and max(errors) > 1e-3, errors


def test_numbers_do_not_depend_on_threads():
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(5, 9000, generator=generator)
    tables = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        tables.append(Lattice(features).tables())
    for other in tables[1:]:
        assert all(map(torch.equal, tables[0], other))


def test_a_batch_is_built_as_its_images_are():
    generator = torch.Generator().manual_seed(8)
    features = 3.0 * torch.randn(5, 4, 3001, generator=generator)
    torch.set_num_threads(2)
    batch = Lattice(features)
    for n, image in enumerate(features):
        assert all(map(torch.equal, batch.tables(n), Lattice(image).tables()))
    features[2, 1, 70] = features[4, 0, 3] = float("inf")
    with pytest.raises(ValueError, match=r"features of image 2 are .* at pixel 70: not finite"):
        Lattice(features)


def test_native_and_reference_lattices_agree_in_every_dimension():
    generator = torch.Generator().manual_seed(4)
    for count in range(1, 9):
        features = 2.0 * torch.randn(count, 83, generator=generator)
        values = torch.randn(1, 3, 83, generator=generator)
        with use_backend("native"):
            ours = Lattice(features)
        with use_backend("reference"):
            plain = Lattice(features)
        assert ours.num_vertices == plain.num_vertices
        assert torch.equal(ours.tables().weights, plain.tables().weights)
        torch.testing.assert_close(ours.filter(values), plain.filter(values))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_lattice_with_far_more_vertices_than_foreseen(threads: int):
    """Every pixel has a simplex of its own: all tables grow, in every part."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(6)
    features = 30.0 * torch.randn(5, 4099, generator=generator)
    values = torch.randn(1, 2, 4099, generator=generator)
    ours = Lattice(features)
    with use_backend("reference"):
        plain = Lattice(features)
    assert ours.num_vertices == plain.num_vertices and ours.num_vertices[0] > 20000
    torch.testing.assert_close(ours.filter(values), plain.filter(values))
    links = ours.tables().neighbours
    assert torch.equal((links > 0).sum(1), (plain.tables().neighbours > 0).sum(1))
    axes, lower = torch.nonzero(links[:, :, 0], as_tuple=True)
    upper = links[axes, links[axes, lower, 0] - 1, 1]
    assert torch.equal(upper, lower + 1)  # each is its lower neighbour's upper one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_is_the_filter_of_ones(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(9)
    features = 0.1 * torch.randn(2, 3, 20003, generator=generator, dtype=dtype).cumsum(2)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        lattice = Lattice(features)
        norm = lattice.filter(torch.ones(2, 1, 20003, dtype=dtype)).squeeze(1)
        assert torch.equal(lattice.norm(), norm)
        (before, _), (symmetric, _) = lattice.scales("before"), lattice.scales("symmetric")
        results.append(symmetric)
        exact = norm.numpy().astype(float) + 1e-20
        np.testing.assert_allclose(before, 1 / exact, rtol=torch.finfo(dtype).eps)
        np.testing.assert_array_equal(
            symmetric, (1 / np.sqrt(exact)).astype(symmetric.numpy().dtype)
        )
    assert torch.equal(*results)


@each_backend
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (5, 3), (37, 53), (40, 129)])
def test_the_lattice_of_an_image_is_that_of_its_features(size: tuple[int, int], backend: str):
    generator = torch.Generator().manual_seed(10)
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
    widths = torch.tensor([8.0, 7.0, 50.0, 40.0, 33.3])
    row, column = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    features = (
        torch.cat([torch.stack([column, row], 2), image], 2).flatten(0, 1).T / widths[:, None]
    )
    with use_backend(backend):
        for channels in (3, 0):
            count = 2 + channels
            ours = Lattice.of_image(image[..., :channels], widths[:count])
            expected = Lattice(features[:count])
            assert (ours.num_features, ours.num_pixels) == (count, size[0] * size[1])
            assert all(map(torch.equal, ours.tables(), expected.tables()))
        with pytest.raises(ValueError, match=r"at pixel 0, too large for the lattice"):
            Lattice.of_image(image | 1, torch.tensor([1.0, 1.0, 1e-20, 1.0, 1.0]))


def test_images_that_a_lattice_cannot_be_built_of():
    image, widths = torch.zeros(4, 5, 3, dtype=torch.uint8), torch.ones(5)
    with pytest.raises(ValueError, match=r"image has shape \(4, 5, 4\)"):
        Lattice.of_image(torch.zeros(4, 5, 4, dtype=torch.uint8), torch.ones(6))
    with pytest.raises(ValueError, match=r"image has shape \(0, 5, 3\)"):
        Lattice.of_image(image[:0], widths)
    with pytest.raises(ValueError, match=r"widths has shape \(2,\)"):
        Lattice.of_image(image, widths[:2])
    with pytest.raises(TypeError, match=r"image has dtype torch\.float32"):
        Lattice.of_image(image.float(), widths)


def test_a_lattice_filters_like_the_op():
    generator = torch.Generator().manual_seed(5)
    features, values = torch.randn(2, 5, 60, generator=generator), torch.randn(2, 4, 60)
    lattice = Lattice(features)
    for transpose in (False, True):
        expected = permutohedral_filter(values, features, transpose)
        assert torch.equal(lattice.filter(values, transpose), expected)
    assert lattice.filter(values.bfloat16()).dtype is torch.bfloat16
    shared = Lattice(features[0])
    expected = permutohedral_filter(values, features[:1])
    assert torch.equal(shared.filter(values), expected)
    assert shared.filter(values[:0]).shape == (0, 4, 60)


def test_gradients_through_a_lattice():
    features = torch.randn(3, 20, generator=torch.Generator().manual_seed(6)).double()
    lattice = Lattice(features)
    values = torch.randn(1, 2, 20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lattice.filter, (values,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lattice.filter, (values,), fast_mode=True)


def test_constant_features_give_every_pixel_the_sum():
    values = torch.randn(2, 5, 40, generator=torch.Generator().manual_seed(7))
    filtered = permutohedral_filter(values, torch.full((1, 3, 40), 0.3))
    one = permutohedral_filter(torch.ones(1, 1, 1), torch.full((1, 3, 1), 0.3))
    expected = (values.sum(2, keepdim=True) * one).expand_as(filtered)
    torch.testing.assert_close(filtered, expected)


def test_wrong_arguments_of_a_lattice():
    lattice = Lattice(torch.randn(2, 12))
    with pytest.raises(ValueError, match="values has 13 pixels, the lattice 12"):
        lattice.filter(torch.zeros(1, 2, 13))
    with pytest.raises(TypeError, match="the lattice computes in"):
        lattice.filter(torch.zeros(1, 2, 12).double())
    with pytest.raises(ValueError, match="normalization is 'both'"):
        lattice.scales("both")
    with pytest.raises(ValueError, match="built for 2"):
        Lattice(torch.randn(2, 2, 12)).filter(torch.zeros(3, 2, 12))
    with pytest.raises(ValueError, match="not finite"):
        Lattice(torch.full((2, 12), float("nan")))
