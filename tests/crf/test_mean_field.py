"""Mean-field inference against pydensecrf's recorded outputs, and its derivatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastseg import use_backend
from fastseg.crf import Kernel, Lattice, mean_field, mean_field_labels
from fastseg.testing import relative_error

RECORDED = Path(__file__).parent / "recorded"
NORMALIZATIONS = {"no": "none", "before": "before", "after": "after", "symmetric": "symmetric"}
SETTINGS = [("potts", name) for name in NORMALIZATIONS] + [
    ("diag", "symmetric"),
    ("matrix", "symmetric"),
]


def compatibility_of(data: Any, kind: str, kernel: str) -> torch.Tensor:
    """From pydensecrf's conventions: a scalar attracts, vectors and matrices are energies."""
    value = torch.from_numpy(data[f"compat_{kind}_{kernel}"])
    if kind == "potts":
        return value[0]
    return -value if kind == "diag" else -(value + value.T) / 2


def kernels_of(data: Any, kind: str, norm: str) -> list[Kernel]:
    return [
        Kernel(
            Lattice(torch.from_numpy(data[f"feat_{name}"])),
            compatibility_of(data, kind, name),
            NORMALIZATIONS[norm],
        )
        for name in ("gauss", "bil")
    ]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(("kind", "norm"), SETTINGS)
@pytest.mark.parametrize("case", ["rand_a_24x31x5", "rand_d_19x22x2"])
def test_probabilities_are_pydensecrfs(case: str, kind: str, norm: str, backend: str):
    data = np.load(RECORDED / f"{case}.npz")
    logits = torch.from_numpy(-data["unary"]).unsqueeze(0)
    compared = 0
    for steps in (1, 5, 10):
        key = f"Q{steps}_{kind}_{norm}"
        if key not in data:
            continue
        with use_backend(backend):
            q = mean_field(logits, kernels_of(data, kind, norm), steps)[0]
        expected = torch.from_numpy(data[key])
        limit = 5e-4 if norm == "no" else 1e-4
        assert (q - expected).abs().max() <= limit, key
        assert (q - expected).abs().mean() <= 1e-6, key
        top = expected.topk(2, 0).values
        decided = top[0] - top[1] > 2 * limit
        assert torch.equal(q.argmax(0)[decided], expected.argmax(0)[decided])
        compared += 1
        truth = data.get(f"lat64_{key}")
        if truth is not None:  # float64 on the same lattice: ours is as close as pydensecrf's
            truth = torch.from_numpy(truth).double()
            theirs = (expected - truth).abs().max().item()
            assert (q - truth).abs().max().item() <= max(4 * theirs, 1e-6), key
    assert compared > 0


@pytest.mark.parametrize("case", ["bil1", "bil2"])
def test_volumes(case: str):
    data = np.load(RECORDED / "nd_7x9x11.npz")
    logits = torch.from_numpy(-data["unary"]).unsqueeze(0)
    kernels = [
        Kernel(Lattice(torch.from_numpy(data[f"feat_{name}"])), weight)
        for name, weight in (("gauss", 2.0), (case, 5.0))
    ]
    for steps in (1, 5, 10):
        q = mean_field(logits, kernels, steps)[0]
        assert (q - torch.from_numpy(data[f"Q{steps}_{case}"])).abs().max() <= 1e-4


def _random(
    labels: int, height: int = 9, width: int = 13, batch: int = 2, kind: int = 0
) -> tuple[torch.Tensor, list[Kernel]]:
    generator = torch.Generator().manual_seed(labels)
    pixels = height * width
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack([x, y]).flatten(1).float() + 0.25
    colors = torch.rand(batch, 3, pixels, generator=generator) * 4.0
    both = torch.cat([(grid / 8.0).expand(batch, 2, pixels), colors], 1)
    shape = (labels,) * kind
    kernels = [
        Kernel(lattice, torch.randn(shape, generator=generator) * 0.5 + (1.0 if kind == 0 else 0))
        for lattice in (Lattice(grid / 2.0), Lattice(both))
    ]
    return 2.0 * torch.randn(batch, labels, pixels, generator=generator), kernels


def _doubled(kernels: list[Kernel], grid_and_both: list[torch.Tensor]) -> list[Kernel]:
    return [
        Kernel(Lattice(f.double()), k.compatibility.double(), k.normalization)
        for k, f in zip(kernels, grid_and_both, strict=True)
    ]


def _gradients(function: Any, logits: torch.Tensor, kernels: list[Kernel]) -> list[torch.Tensor]:
    logits = logits.clone().requires_grad_()
    matrices = [k.compatibility.clone().requires_grad_() for k in kernels]
    kernels = [
        Kernel(k.lattice, m, k.normalization) for k, m in zip(kernels, matrices, strict=True)
    ]
    q = function(logits, kernels)
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to(q.dtype)
    return [q.detach(), *torch.autograd.grad(q, [logits, *matrices], weight)]


@pytest.mark.parametrize("norm", ["symmetric", "before", "after", "none"])
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["scalar", "diagonal", "full"])
@pytest.mark.parametrize("labels", [1, 2, 5, 21, 45])
def test_native_engine_is_the_composition(labels: int, kind: int, norm: str):
    """Results and gradients against the composition of filters, in the same float32."""
    if norm != "symmetric" and labels != 5:
        return  # the normalisations do not depend on the number of labels
    logits, kernels = _random(labels, kind=kind)
    kernels = [Kernel(k.lattice, k.compatibility, norm) for k in kernels]

    def run(backend: str) -> list[torch.Tensor]:
        def function(x: torch.Tensor, k: list[Kernel]) -> torch.Tensor:
            with use_backend(backend):
                return mean_field(x, k, 3)

        return _gradients(function, logits, kernels)

    for ours, plain in zip(run("native"), run("reference"), strict=True):
        scale = max(plain.abs().max().item(), 1.0)
        assert (ours - plain).abs().max().item() <= 2e-5 * scale


def test_a_number_has_the_precision_of_the_logits():
    logits, lattice = torch.randn(1, 2, 12).double(), Lattice(torch.rand(1, 2, 12).double())
    results = [
        mean_field(logits, [Kernel(lattice, w)], 2)
        for w in (0.1, torch.tensor(0.1, dtype=torch.float64))
    ]
    assert torch.equal(*results)


def test_gradients_in_float64():
    """The composition's derivative against finite differences (the native one against it above)."""
    logits, kernels = _random(3, 3, 4, batch=1, kind=2)
    features = [torch.rand(2, 12).double(), torch.rand(3, 12).double() * 2]
    kernels = _doubled(kernels, features)

    def function(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        pair = zip(kernels, (first, second), strict=True)
        return mean_field(x, [Kernel(k.lattice, m) for k, m in pair], 2)

    leaves = [logits.double(), *(k.compatibility for k in kernels)]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in leaves], fast_mode=True)


def test_gradient_of_the_unary_is_pydensecrfs():
    """Its value: the mean of log Q5 of the labelled pixels."""
    for case in ("rand_a_24x31x5", "rand_d_19x22x2"):
        data = np.load(RECORDED / f"{case}.npz")
        for kind in ("potts", "matrix"):
            logits = torch.from_numpy(-data["unary"]).unsqueeze(0).requires_grad_()
            kernels = kernels_of(data, kind, "symmetric")
            matrices = [k.compatibility.clone().requires_grad_() for k in kernels]
            kernels = [Kernel(k.lattice, m) for k, m in zip(kernels, matrices, strict=True)]
            truth = torch.from_numpy(data["grad_gt"].astype(np.int64))
            labelled = truth >= 0
            q = mean_field(logits, kernels, 5)[0]
            own = q.gather(0, truth.clamp(min=0).unsqueeze(0))[0][labelled]
            value = own.log().sum() / len(truth)
            expected = float(data[f"grad5_value_{kind}_symmetric"])
            assert value.item() == pytest.approx(expected, rel=1e-4)
            grads = torch.autograd.grad(value, [logits, *matrices])
            unary = torch.from_numpy(data[f"grad5_unary_{kind}_symmetric"])
            assert relative_error(-grads[0][0], unary) < 2e-3
            if kind == "potts":
                compat = torch.from_numpy(data["grad5_compat_potts_symmetric"])
                assert relative_error(torch.stack(grads[1:]).flatten(), compat) < 2e-3


@pytest.mark.parametrize("labels", [2, 21, 40])
def test_same_bits_at_any_thread_count(labels: int):
    logits, kernels = _random(labels, 70, 66, batch=1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(_gradients(lambda x, k: mean_field(x, k, 2), logits, kernels))
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_large_logits():
    """From 8 MB on they are copied, block by block, to where the result will lie; the last block
    here is not whole. Labels alone have no such place, and read them where they are."""
    logits, kernels = _random(80, 150, 177, batch=1)
    assert logits.nbytes >= 1 << 23
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(mean_field(logits, kernels, 3))
    assert torch.equal(*results)
    assert torch.equal(mean_field_labels(logits, kernels, 3).long(), results[0].argmax(1))
    with use_backend("reference"):
        plain = mean_field(logits, kernels, 3)
    assert (results[0] - plain).abs().max().item() <= 2e-5
    assert torch.equal(mean_field(logits, kernels, 0), mean_field(logits, [], 0))


@pytest.mark.parametrize("labels", [1, 2, 7, 21, 40])
def test_labels_are_the_most_probable_ones(labels: int):
    logits, kernels = _random(labels)
    expected = mean_field(logits, kernels, 2).argmax(1)
    assert torch.equal(mean_field_labels(logits, kernels, 2).long(), expected)


def test_shapes_dtypes_and_no_steps():
    logits, kernels = _random(4)
    expected = mean_field(logits, kernels, 2)
    assert torch.equal(mean_field(logits.view(2, 4, 9, 13), kernels, 2).flatten(2), expected)
    labels = mean_field_labels(logits.view(2, 4, 9, 13), kernels, 2)
    assert labels.shape == (2, 9, 13) and labels.dtype is torch.uint8
    half = mean_field(logits.bfloat16(), kernels, 2)
    assert half.dtype is torch.bfloat16
    torch.testing.assert_close(mean_field(logits, kernels, 0), logits.softmax(1))
    torch.testing.assert_close(mean_field(logits, [], 3), logits.softmax(1))
    shared = [Kernel(kernels[0].lattice, 1.0)]
    assert mean_field(logits[:0], shared, 2).shape == (0, 4, 117)
    one = [Kernel(Lattice(torch.zeros(2, 1)), 1.0)]
    q = mean_field(torch.tensor([[[1.0], [0.0]]]), one, 2)
    assert q.sum().item() == pytest.approx(1.0) and q[0, 0, 0] > 0.7


def test_excluded_labels():
    logits, kernels = _random(5)
    logits[:, 2, 10:50] = -float("inf")
    q = mean_field(logits, kernels, 3)
    assert q.isfinite().all() and (q[:, 2, 10:50] < 1e-30).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_logits_that_are_not_finite(value: float, backend: str):
    logits, kernels = _random(3)
    logits[1, 2, 7] = value
    with use_backend(backend), pytest.raises(ValueError, match=r"logits of image 1 .* at pixel 7"):
        mean_field(logits, kernels, 2)


def test_wrong_arguments():
    logits, kernels = _random(3)
    with pytest.raises(ValueError, match="steps is -1"):
        mean_field(logits, kernels, -1)
    with pytest.raises(ValueError, match="logits has shape"):
        mean_field(logits[0], kernels)
    with pytest.raises(ValueError, match="logits has 116 pixels, the lattice of kernel 0 117"):
        mean_field(logits[:, :, 1:], kernels)
    with pytest.raises(ValueError, match=r"compatibility has shape \(4,\)"):
        mean_field(logits, [Kernel(kernels[0].lattice, torch.ones(4))])
    with pytest.raises(ValueError, match="there are 9 kernels"):
        mean_field(logits, kernels[:1] * 9)
    lattice = kernels[0].lattice
    for wrong, match in (
        (kernels[0], "kernels is a Kernel"),
        ([lattice], r"kernels\[0\] is a Lattice"),
        ([Kernel(lattice, "one")], "compatibility is 'one'"),
    ):
        with pytest.raises(TypeError, match=match):
            mean_field(logits, wrong)
    with pytest.raises(TypeError, match="logits is a ndarray"):
        mean_field(logits.numpy(), kernels)
    with pytest.raises(TypeError, match="kernel 0 computes in"):
        mean_field(logits.double(), kernels)
    with pytest.raises(ValueError, match="image 0: a compatibility"):
        mean_field(logits, [Kernel(kernels[0].lattice, float("nan"))])
