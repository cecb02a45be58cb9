"""Lattices beyond packed keys: widths far below a grey level or a pixel, and many features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import fastseg.crf.densecrf as dcrf
from fastseg import permutohedral_filter, use_backend
from fastseg.crf import Lattice, utils
from fastseg.ops.permutohedral_filter import native

RECORDED = Path(__file__).parent / "recorded" / "wide_17x21.npz"
HEIGHT, WIDTH, LABELS = 17, 21, 3


def _image() -> np.ndarray:
    """uint8 [H, W, 3]: two noisy halves."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 40, (HEIGHT, WIDTH, 3))
    image[:, WIDTH // 2 :] += 200
    image[5:9, 3:9] = 255  # pixels of the same color
    return image.astype(np.uint8)


def _unary() -> np.ndarray:
    return np.random.default_rng(1).random((LABELS, HEIGHT * WIDTH), dtype=np.float32) * 3


def _bilateral(sdims: float, schan: float) -> Callable[[], np.ndarray]:
    return lambda: utils.create_pairwise_bilateral((sdims, sdims), (schan,) * 3, _image(), 2)


def _moved(offset: float) -> Callable[[], np.ndarray]:
    return lambda: _bilateral(20, 10)() + np.float32(offset)


def _many(count: int, spread: float = 3.0) -> Callable[[], np.ndarray]:
    """So many features of which some pixels share all."""

    def features() -> np.ndarray:
        generator = np.random.default_rng(count)
        few = generator.standard_normal((count, 12)) * spread
        return few[:, generator.integers(0, 12, HEIGHT * WIDTH)].astype(np.float32)

    return features


# What pydensecrf computes right, recorded; beyond, its memory is damaged.
CASES: dict[str, Callable[[], np.ndarray]] = {
    "schan 0.01 of 0..255": _bilateral(10, 0.01),
    "schan 0.001 of 0..255": _bilateral(10, 0.001),
    "sdims 0.001": _bilateral(0.001, 13),
    "both tiny": _bilateral(0.002, 0.005),
    "large offset": _moved(3000.0),
    "far negative": _moved(-3000.0),
    "9 features": _many(9),
    "12 features": _many(12),
    "12 features, far apart": _many(12, 5000.0),
    "33 features": _many(33),
}
each_case = pytest.mark.parametrize("case", CASES)
# Where float32 cannot tell the corners of a simplex apart.
FARTHEST = {"far": _many(5, 2e6), "far, many features": _many(11, 1e6)}


def _probabilities(package, features: np.ndarray) -> np.ndarray:
    d = package.DenseCRF(HEIGHT * WIDTH, LABELS)
    d.setUnaryEnergy(_unary())
    d.addPairwiseEnergy(np.ascontiguousarray(features), compat=4)
    return np.array(d.inference(5))


@each_case
def test_probabilities_are_pydensecrfs(case: str):
    expected = np.load(RECORDED)[case]
    result = _probabilities(dcrf, CASES[case]())
    assert np.abs(result - expected).max() < 5e-4
    assert np.abs(result - expected).mean() < 1e-6


@pytest.mark.parametrize("case", [*CASES, *FARTHEST])
def test_backends_agree(case: str):
    features = torch.from_numpy(np.ascontiguousarray({**CASES, **FARTHEST}[case]()))[None]
    values = torch.randn(2, 5, HEIGHT * WIDTH)
    results = []
    for backend in ("native", "reference"):
        with use_backend(backend):
            lattice = Lattice(features)
            rows, weights, neighbours = lattice.tables()
            x, f = values.clone().requires_grad_(), features.clone().requires_grad_()
            out = permutohedral_filter(x, f)
            grads = torch.autograd.grad(out.square().sum(), (x, f))
        assert torch.equal(rows.max() <= lattice.num_vertices[0], torch.tensor(True))
        results.append((lattice.num_vertices, weights, out, *grads, (neighbours > 0).sum()))
    ours, reference = results
    assert ours[0] == reference[0] and torch.equal(ours[5], reference[5])
    assert torch.equal(ours[1], reference[1])  # which says that the simplices are the same
    for a, b in zip(ours[2:5], reference[2:5], strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * b.abs().max().item())


def test_images_with_tiny_widths():
    """Natively, without the features in memory."""
    image, widths = torch.from_numpy(_image()), torch.tensor([0.01, 0.02, 0.01, 0.01, 0.005])
    lattice = Lattice.of_image(image, widths)
    grid = torch.stack(
        torch.meshgrid(torch.arange(WIDTH), torch.arange(HEIGHT), indexing="xy")
    ).flatten(1)
    features = torch.cat([grid, image.permute(2, 0, 1).flatten(1)]) / widths[:, None]
    assert all(map(torch.equal, lattice.tables(), Lattice(features).tables()))


def test_pixels_that_touch_no_common_vertex_are_apart():
    """Points that 16-bit keys take for one: their coordinates differ by multiples of 65536."""
    features = torch.zeros(1, 2, 8)
    features[0, :, 4:] = 65536 * 3 * torch.tensor([[1.0], [2.0]]) / np.sqrt(6)
    values = torch.zeros(1, 1, 8)
    values[0, 0, 0] = 1.0
    for dtype in (torch.float32, torch.float64):
        filtered = permutohedral_filter(values.to(dtype), features.to(dtype))
        assert (filtered[0, 0, :4] > 0.1).all() and (filtered[0, 0, 4:] == 0).all()


def test_where_both_constructions_work_they_give_the_same(monkeypatch: pytest.MonkeyPatch):
    """One pixel far away makes the lattice a wide one; all others stay as they were."""
    features = torch.randn(1, 5, 203, generator=torch.Generator().manual_seed(0)) * 5
    far = torch.cat([features, torch.full((1, 5, 1), 1e5)], 2)
    packed, wide = Lattice(features), Lattice(far)
    # 203 and 204 are filled up to 204 alike, but for what fills them.
    assert torch.equal(packed.tables()[1], wide.tables()[1][:, :203])
    assert torch.equal(packed.tables()[0], wide.tables()[0][:, :203])


def test_any_thread_count():
    features = torch.randn(1, 11, 3000, generator=torch.Generator().manual_seed(0)) * 3
    tables = []
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        tables.append(native.tables(native.build(features), 0))
    for other in tables[1:]:
        assert all(map(torch.equal, tables[0], other))


def test_more_corners_than_the_native_mean_field_holds():
    """Nine kernels of many features are computed by the composition."""
    d = dcrf.DenseCRF(HEIGHT * WIDTH, LABELS)
    d.setUnaryEnergy(_unary())
    for count in (33, 40):
        d.addPairwiseEnergy(_many(count)(), compat=1)
    q = d.inference(2)
    assert np.allclose(q.sum(0), 1, atol=1e-5)
    assert np.array_equal(d.map(2), q.argmax(0))


@pytest.mark.parametrize("value", [1e9, 1e30, float("nan"), float("inf")])
def test_too_large_is_still_an_error(value: float):
    features = np.zeros((5, HEIGHT * WIDTH), np.float32)
    features[3, 100] = value
    for backend in ("native", "reference"):
        with use_backend(backend), pytest.raises(ValueError, match=r"too large|not finite"):
            Lattice(torch.from_numpy(features))
