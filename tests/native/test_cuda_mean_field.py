"""Mean field's CUDA kernels on the CPU, against the composition of the op and pydensecrf."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fastseg import BackendUnavailable, use_backend
from fastseg.crf import DenseCRF, Kernel, Lattice, mean_field, mean_field_labels, spatial
from fastseg.crf import mean_field_cuda as engine
from fastseg.testing import poisoned_empty

RECORDED = Path(__file__).parents[1] / "crf" / "recorded"


def case(labels: int, kind: int, batch: int = 2) -> tuple[torch.Tensor, list[Kernel]]:
    """Logits, and two terms: one lattice for the batch, and one of each image."""
    generator = torch.Generator().manual_seed(labels)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    lattices = (Lattice(random(2, 37)), Lattice(random(batch, 4, 37)))
    compatibilities = [random(*(labels,) * kind) * 0.5 + (kind == 0) for _ in lattices]
    terms = [Kernel(o, c) for o, c in zip(lattices, compatibilities, strict=True)]
    return 2.0 * random(batch, labels, 37), terms


def composed(logits: torch.Tensor, kernels: list[Kernel], steps: int) -> torch.Tensor:
    with use_backend("reference"):
        return mean_field(logits, kernels, steps)


@pytest.mark.parametrize(
    ("labels", "kind"), [*itertools.product((1, 2, 3, 21), (0, 1, 2)), (64, 1), (150, 2), (260, 0)]
)
def test_probabilities_and_labels(emulated_core, labels, kind):
    """One to 32 threads for a pixel, one to four vectors for a thread; any order of blocks."""
    logits, kernels = case(labels, kind)
    expected = composed(logits, kernels, 3)
    results = []
    for order in (0, 1):
        emulated_core.cuda_on_cpu.set_order(order)
        with use_backend("native"), poisoned_empty():
            results.append(mean_field(logits, kernels, 3))
            most_probable = mean_field_labels(logits, kernels, 3)
        assert torch.equal(most_probable.long(), results[-1].argmax(1))
    assert torch.equal(*results)
    assert (results[0] - expected).abs().max() <= 2e-5


@pytest.mark.parametrize("normalization", ["none", "before", "after", "symmetric"])
def test_normalisations(emulated_core, normalization):
    logits, kernels = case(5, 0)
    kernels = [Kernel(k.lattice, k.compatibility, normalization) for k in kernels]
    with use_backend("native"), poisoned_empty():
        ours = mean_field(logits, kernels, 3)
    assert (ours - composed(logits, kernels, 3)).abs().max() <= 2e-5


@pytest.mark.parametrize("kind", ["potts", "diag", "matrix"])
def test_probabilities_are_pydensecrfs(emulated_core, kind):
    data = np.load(RECORDED / "rand_d_19x22x2.npz")
    kernels = []
    for name in ("gauss", "bil"):
        energies = torch.from_numpy(data[f"compat_{kind}_{name}"])
        if kind == "potts":
            matrix = energies[0]
        else:
            matrix = -energies if kind == "diag" else -(energies + energies.T) / 2
        kernels.append(Kernel(Lattice(torch.from_numpy(data[f"feat_{name}"])), matrix))
    with use_backend("native"):
        q = mean_field(torch.from_numpy(-data["unary"]).unsqueeze(0), kernels, 5)[0]
    expected = torch.from_numpy(data[f"Q5_{kind}_symmetric"])
    assert (q - expected).abs().max() <= 1e-4 and (q - expected).abs().mean() <= 1e-6


def test_shapes_dtypes_and_no_steps(emulated_core):
    logits, kernels = case(4, 1)
    with use_backend("native"):
        expected = mean_field(logits, kernels, 2)
        half = mean_field(logits.bfloat16(), kernels, 2)
        last = logits.transpose(1, 2).contiguous().transpose(1, 2)
        assert torch.equal(mean_field(last, kernels, 2), expected)
        torch.testing.assert_close(mean_field(logits, kernels, 0), logits.softmax(1))
        torch.testing.assert_close(mean_field(logits, [], 3), logits.softmax(1))
        assert mean_field(logits[:0], kernels[:1], 2).shape == (0, 4, 37)
        assert mean_field_labels(logits[:0], kernels[:1], 2).shape == (0, 37)
        maps = mean_field(logits[:, :, :36].reshape(2, 4, 6, 6), [], 1)
    assert half.dtype is torch.bfloat16 and maps.shape == (2, 4, 6, 6)
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.02)


def test_excluded_labels_and_logits_that_are_not_finite(emulated_core, monkeypatch):
    logits, kernels = case(5, 0)
    logits[:, 2, 10:20] = -float("inf")
    with use_backend("native"):
        q = mean_field(logits, kernels, 3)
        assert q.isfinite().all() and (q[:, 2, 10:20] == 0).all()
        for value in (float("nan"), float("inf")):
            logits[1, 3, 7] = value
            with pytest.raises(ValueError, match=r"logits of image 1 .* at pixel 7"):
                mean_field(logits, kernels, 2)
        logits[1, :, 7] = -float("inf")
        with pytest.raises(ValueError, match=r"logits of image 1 .* at pixel 7"):
            mean_field_labels(logits, kernels, 2)
        monkeypatch.setattr(engine, "is_capturing", lambda x: True)  # a CUDA graph
        q = mean_field(logits, kernels, 2)
        assert q[1, :, 7].isnan().all() and q[0].isfinite().all()
        monkeypatch.undo()
    logits, kernels = case(5, 2)
    with use_backend("native"), pytest.raises(ValueError, match="a compatibility is not finite"):
        mean_field(logits, [Kernel(kernels[0].lattice, torch.full((5, 5), float("nan")))], 1)


def gradients(logits: torch.Tensor, kernels: list[Kernel], steps: int) -> list[torch.Tensor]:
    """Of the probabilities, to the logits and the compatibilities."""
    leaves = [t.detach().clone().requires_grad_() for t in (logits, *compatibilities(kernels))]
    pairs = zip(kernels, leaves[1:], strict=True)
    q = mean_field(leaves[0], [Kernel(k.lattice, m, k.normalization) for k, m in pairs], steps)
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(q, leaves, weight, allow_unused=True)
    return [g if g is not None else torch.zeros_like(x) for g, x in zip(grads, leaves, strict=True)]


def compatibilities(kernels: list[Kernel]) -> list[torch.Tensor]:
    return [torch.as_tensor(k.compatibility) for k in kernels]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["scalar", "diagonal", "full"])
@pytest.mark.parametrize(
    ("labels", "normalization", "steps"),
    [(1, "symmetric", 2), (5, "before", 3), (5, "after", 3), (21, "symmetric", 3), (3, "none", 0)],
)
def test_gradients(emulated_core, labels, kind, normalization, steps):
    logits, kernels = case(labels, kind)
    kernels = [Kernel(k.lattice, k.compatibility, normalization) for k in kernels]
    with use_backend("native"), poisoned_empty():
        ours = gradients(logits, kernels, steps)
    with use_backend("reference"):
        plain = gradients(logits, kernels, steps)
    for x, y in zip(ours, plain, strict=True):
        assert x.shape == y.shape
        assert (x - y).abs().max() <= 2e-5 * max(y.abs().max().item(), 1.0)


def test_gradients_that_are_not_asked_for(emulated_core):
    logits, kernels = case(4, 1)
    matrix = kernels[1].compatibility.clone().requires_grad_()
    both = gradients(logits, kernels, 2)
    with use_backend("native"):
        q = mean_field(logits, [kernels[0], Kernel(kernels[1].lattice, matrix)], 2)
        weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
        (alone,) = torch.autograd.grad(q, matrix, weight)
    assert torch.equal(alone, both[2])


@pytest.mark.parametrize("steps", (3, 6))
def test_memory_that_the_backward_keeps(emulated_core, steps):
    """Of a smooth image at most a quarter of the probabilities of every step."""
    generator = torch.Generator().manual_seed(0)
    labels, height, width = 21, 60, 80
    coarse = torch.rand(1, 3, 4, 5, generator=generator) * 60
    colors = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([x, y])[None].float()
    kernels = [
        Kernel(Lattice((place / 3.0).flatten(2)), 3.0),
        Kernel(Lattice(torch.cat([place / 80.0, colors / 13.0], 1).flatten(2)), 10.0),
    ]
    logits = torch.randn(1, labels, height * width, generator=generator).requires_grad_()
    saved: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        saved[x.data_ptr()] = x.nbytes
        return x

    with use_backend("native"), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        mean_field(logits, kernels, steps)
    del saved[logits.data_ptr()]
    assert 0 < sum(saved.values()) <= steps * logits.nbytes / 4


def test_more_labels_than_a_pixel_can_have_in_registers(emulated_core):
    _, kernels = case(3, 0)
    many = torch.zeros(2, 513, 37)
    with use_backend("native"), pytest.raises(BackendUnavailable, match="513 labels"):
        mean_field(many, kernels, 2)
    torch.testing.assert_close(mean_field(many, kernels, 1), torch.full_like(many, 1 / 513))


@pytest.fixture
def no_cached_lattices() -> Iterator[None]:
    """Lattices of positions are kept by device, and here CUDA's device is the CPU."""
    spatial._cached.cache_clear()
    yield
    spatial._cached.cache_clear()


def test_a_dense_crf(no_cached_lattices, emulated_core):
    """The module on CUDA tensors; crf.predict as well."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 7, 9, generator=generator)
    images = torch.rand(2, 3, 7, 9, generator=generator) * 255.0
    crf = DenseCRF(3)
    launches = emulated_core.cuda_on_cpu.launches()
    with torch.no_grad():
        ours, labels = crf(logits, images), crf.predict(logits, images)
        assert emulated_core.cuda_on_cpu.launches() > launches
        with use_backend("reference"):
            expected = crf(logits, images)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(labels.long(), ours.argmax(1))
