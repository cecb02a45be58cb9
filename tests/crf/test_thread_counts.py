"""The CRFs compute the same bits at any number of threads, gradients included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fastseg.crf import BilateralKernel, DenseCRF, FeatureKernel, GaussianKernel

THREADS = (1, 2, 3, 5)
Kernels = Callable[[int], tuple]


def _matrix(labels: int) -> torch.Tensor:
    return torch.randn(labels, labels, generator=torch.Generator().manual_seed(2)) * 0.2


KERNELS: dict[str, Kernels] = {
    "position": lambda _: (GaussianKernel(2.5, 1.0),),
    "position and color": lambda _: (GaussianKernel(2.5, 1.0), BilateralKernel(9.0, 50.0, 2.0)),
    "a vector of compatibilities": lambda n: (
        BilateralKernel(9.0, 50.0, 1.0, compatibility=_matrix(n).diagonal().tolist()),
    ),
    "a matrix of compatibilities": lambda n: (GaussianKernel(2.5, 1.0, compatibility=_matrix(n)),),
    "one feature": lambda _: (FeatureKernel([2.0]), GaussianKernel(2.0)),
}


def _results(method: str, size: tuple[int, int, int, int], make: Kernels) -> list[torch.Tensor]:
    batch, labels, height, width = size
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, generator=generator).requires_grad_()
    images = torch.randint(0, 256, (batch, 3, height, width), generator=generator).float()
    crf = DenseCRF(labels, make(labels), iterations=2, method=method, radius=2)
    count = sum(isinstance(k, FeatureKernel) for k in crf.kernels)
    features = [torch.rand(batch, 1, height, width, generator=generator)] * count
    for kernel in crf.kernels:
        kernel.log_scales.requires_grad_()
    result = crf(logits, images, features=features)
    loss = (result * torch.randn(size, generator=generator)).sum()
    leaves = [logits, *(p for p in crf.parameters() if p.requires_grad)]
    return [
        result.detach(),
        *torch.autograd.grad(loss, leaves),
        crf.predict(logits, images, features=features),
    ]


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("method", ["lattice", "exact", "window"])
def test_same_bits(method: str, kernels: str):
    # With more elements than torch leaves to one thread (32768), and with odd sizes.
    size = (1, 7, 61, 83) if method != "exact" or kernels == "position" else (3, 9, 31, 41)
    runs = []
    for threads in THREADS:
        torch.set_num_threads(threads)
        runs.append(_results(method, size, KERNELS[kernels]))
    for threads, run in zip(THREADS[1:], runs[1:], strict=True):
        equal = [torch.equal(a, b) for a, b in zip(runs[0], run, strict=True)]
        assert all(equal), f"{threads} threads: {equal}"
