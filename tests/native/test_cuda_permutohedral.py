"""The permutohedral lattice's CUDA kernels on the CPU: the CPU twin's lattice bit for bit, vertices
of very many pixels, full hash tables, recorded graphs, batches in several lattices."""

from __future__ import annotations

import pytest
import torch

from fastseg import _native, permutohedral_filter, use_backend
from fastseg.crf import Lattice
from fastseg.ops.permutohedral_filter import device_lattice, native_cuda, reference
from fastseg.testing import poisoned_empty

ORDERS = (0, 1, 2)


@pytest.fixture
def cpu_lattice(monkeypatch):
    """Builds lattices with the CPU twin."""

    def build(features: torch.Tensor) -> Lattice:
        with monkeypatch.context() as patch:
            patch.setattr(_native, "on_cuda", lambda x: False)
            return Lattice(features)

    return build


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def smooth(count: int, pixels: int) -> torch.Tensor:
    """Features of which neighbours share simplices."""
    position = torch.arange(pixels, dtype=torch.float32) / pixels
    return torch.stack([5.0 * torch.sin((i + 1) * position + i) for i in range(count)])


def assert_same_lattice(ours: Lattice, expected: Lattice) -> None:
    assert ours.num_vertices == expected.num_vertices
    for image in range(expected.batch):
        names = ("rows", "weights", "neighbours")
        for name, x, y in zip(names, ours.tables(image), expected.tables(image), strict=True):
            assert torch.equal(x, y), f"{name} of image {image}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", range(1, 9))
def test_the_lattice_of_the_cpu_twin(emulated_core, cpu_lattice, count, dtype):
    """Numbers of vertices included, whatever the order of blocks and threads."""
    rough = random(2, count, 70 + count, seed=count, dtype=dtype) * 3.0
    image = smooth(count, 301).unsqueeze(0).to(dtype)
    for features in (rough, image, image.round()):  # integers: residuals that are equal
        expected = cpu_lattice(features)
        for order in ORDERS:
            emulated_core.cuda_on_cpu.set_order(order)
            with poisoned_empty():
                assert_same_lattice(Lattice(features), expected)


def every_vertex_once(pixels: int) -> torch.Tensor:
    """Pixels so far apart that no two share a vertex."""
    return torch.arange(pixels, dtype=torch.float32).mul(9.0).expand(3, pixels).contiguous()


@pytest.mark.parametrize(
    ("why", "features"),
    [
        ("one pixel", random(2, 5, 1)),
        ("constant: vertices of several groups of tiles", torch.full((1, 2, 2600), 0.3)),
        ("the first vertex ends where a group does", torch.full((1, 2, 64 * 32), 0.3)),
        ("a tile before", torch.full((1, 2, 63 * 32), 0.3)),
        (
            "constant, then others",
            torch.cat([torch.full((2, 2099), 0.3), random(2, 1000)], 1)[None],
        ),
        ("as many vertices as corners, the fullest table", every_vertex_once(340)[None]),
        ("zero features", torch.zeros(2, 4, 9)),
        ("negative zeros", torch.full((1, 4, 9), -0.0)),
    ],
)
def test_lattices_and_filters_at_the_edges(emulated_core, cpu_lattice, why, features):
    expected = cpu_lattice(features)
    values = random(features.shape[0], 3, features.shape[2], seed=1)
    results = []
    for order in ORDERS:
        emulated_core.cuda_on_cpu.set_order(order)
        with poisoned_empty():
            lattice = Lattice(features)
            results.append(lattice.filter(values))
        assert_same_lattice(lattice, expected)
    assert all(torch.equal(r, results[0]) for r in results)
    for image, value in enumerate(values.double()):
        tables = expected.tables(image)
        tables = tables._replace(weights=tables.weights.double())
        truth = reference.filter_one(value, tables, False)
        magnitude = reference.filter_one(value.abs(), tables, False)
        assert ((results[0][image] - truth).abs() <= 2e-6 * magnitude).all()
    if "fullest" in why:
        assert lattice.num_vertices == [4 * 340]


@pytest.mark.parametrize("labels", [1, 2, 3, 64, 65, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_any_number_of_labels(emulated_core, labels, dtype):
    """Rows of one, two and four values, several groups; one lattice for two images as well."""
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    values, features = random(2, labels, 45, dtype=dtype), random(2, 3, 45, seed=2, dtype=dtype)
    for of in (features, features[:1]):
        with poisoned_empty():
            ours = permutohedral_filter(values, of)
        with use_backend("reference"):
            expected = permutohedral_filter(values.to(compute), of.to(compute))
        tolerance = 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, expected.to(dtype), rtol=tolerance, atol=4 * tolerance)


def gradients(values: torch.Tensor, features: torch.Tensor) -> list[torch.Tensor]:
    leaves = [values.detach().requires_grad_(), features.detach().requires_grad_()]
    out = permutohedral_filter(*leaves)
    grad = random(*out.shape, seed=9, dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def test_gradients_of_one_lattice_for_all_images_and_of_groups_of_labels(emulated_core):
    values, features = random(3, 70, 40), random(1, 2, 40, seed=3)
    with poisoned_empty():
        ours = gradients(values, features)
    with use_backend("reference"):
        truths = gradients(values.double(), features.double())
    for x, truth in zip(ours, truths, strict=True):
        assert (x - truth).abs().max() <= 2e-6 * truth.abs().max()


def test_recorded_in_a_graph_it_gives_the_same_bits(emulated_core, cpu_lattice, monkeypatch):
    values, features = random(2, 5, 90), random(2, 5, 90, seed=4)
    expected = gradients(values, features)
    monkeypatch.setattr(device_lattice, "is_capturing", lambda x: True)
    with poisoned_empty():
        assert all(map(torch.equal, gradients(values, features), expected))
        lattice = Lattice(features)
        assert_same_lattice(lattice, cpu_lattice(features))
        recorded = lattice.norm()
        assert lattice.norm() is not recorded  # it has no numbers before the graph's replay
    monkeypatch.setattr(device_lattice, "is_capturing", lambda x: False)
    assert lattice.norm() is lattice.norm() and torch.equal(lattice.norm(), recorded)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e9, 2e4])
def test_features_out_of_range(emulated_core, monkeypatch, bad):
    """An error, or while a graph is recorded NaN in the image that they are of."""
    values, features = random(3, 2, 30), random(3, 4, 30, seed=5)
    good = permutohedral_filter(values, features)
    features[1, 2, 7] = features[1, 0, 9] = bad
    if bad == 2e4:  # too large for packed keys alone
        permutohedral_filter(values, features)
    else:
        with pytest.raises(ValueError, match=r"image 1 .* at pixel 7"):
            permutohedral_filter(values, features)
    monkeypatch.setattr(device_lattice, "is_capturing", lambda x: True)
    out, grad_values, grad_features = gradients(values, features)
    assert torch.equal(out[::2], good[::2])
    assert out[1, :, 7].isnan().all()
    assert grad_values[::2].isfinite().all() and grad_features[::2].isfinite().all()


def test_a_batch_in_several_lattices(emulated_core, monkeypatch):
    """As if it had more corners than one lattice can number."""
    values, features = random(3, 2, 30), random(3, 4, 30, seed=6)
    expected = gradients(values, features)
    whole = Lattice(features)
    monkeypatch.setattr(native_cuda, "images_per_lattice", lambda corners: 2)
    assert all(map(torch.equal, gradients(values, features), expected))
    parts = Lattice(features)
    assert len(parts.handles) == 2
    assert_same_lattice(parts, whole)
    features[2, 3, 11] = float("inf")
    with pytest.raises(ValueError, match=r"image 2 .* at pixel 11"):
        Lattice(features)
    monkeypatch.setattr(device_lattice, "images_per_lattice", lambda corners: 0)
    with use_backend("native"), pytest.raises(NotImplementedError, match="2\\^30 corners"):
        permutohedral_filter(values, features)


def test_sizes_beyond_32_bits(emulated_core):
    """What is asked of memory is counted in 64 bits; what a lattice cannot number is refused."""
    core = emulated_core.permutohedral_filter_cuda
    shape = core.LatticeShape(dtype=0, batch=1, features=5, pixels=178_000_000)
    assert shape.corners == 1_068_000_000 and shape.table_slots == 1 << 31
    lattice = core.DeviceLattice(
        shape=shape, capacity=10**9, count=0, rows=0, weights=0, neighbours=0, entry_rows=0,
        entry_pixels=0, entry_weights=0, ranges=0,
    )  # fmt: skip
    work = core.Shape(dtype=0, batch=1, labels=64, transpose=False)
    assert core.workspace_bytes(lattice, work, backward=False) > 4 * 64 * (178e6 + 2e9)
    shape = core.LatticeShape(dtype=0, batch=2, features=5, pixels=178_000_000)
    with pytest.raises(ValueError, match=r"more than 2\^30 corners"):
        core.cuda_locate(shape, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "spread"), [(9, 3.0), (17, 3.0), (5, 1e4), (3, 2e6)])
def test_lattices_that_the_cpu_builds(
    emulated_core, cpu_lattice, monkeypatch, count, spread, dtype
):
    """Many features, or large ones: the CPU's lattice, then the kernels of any other."""
    features = random(2, count, 45, seed=count, dtype=dtype) * spread
    values = random(2, 6, 45, dtype=dtype)
    assert_same_lattice(Lattice(features), cpu_lattice(features))
    ours = gradients(values, features)
    with use_backend("reference"):
        reference = gradients(values, features)
    for a, b in zip(ours, reference, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5 * b.abs().max().item())
    monkeypatch.setattr(device_lattice, "is_capturing", lambda x: True)
    if count > 8:
        with pytest.raises(NotImplementedError, match=f"D = {count}"):
            permutohedral_filter(values, features)
