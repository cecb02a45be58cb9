"""Every CPU kernel, called through the public functions: the samples of all ops, and the CRFs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "ops"))
from op_cases import forward_and_gradients, inputs, samples_of, tensors

from fastseg import Backend, BackendUnavailable, use_backend
from fastseg.crf import BilateralKernel, DenseCRF, GaussianKernel, Kernel, Lattice, mean_field
from fastseg.crf import densecrf as pydensecrf
from fastseg.registry import ALL_OPS

Call = Callable[[], list[torch.Tensor]]


def op_calls() -> Iterator[tuple[str, Call]]:
    """Forward and gradients of each op with a native backend, on each of its samples."""
    for op in sorted(ALL_OPS.values(), key=lambda op: op.name):
        if Backend.NATIVE not in op.backends:
            continue
        samples = samples_of(op)
        for sample in samples.samples:
            values = inputs(sample)
            if min(map(torch.numel, tensors(values))) == 0:
                continue

            def call(samples=samples, values=values) -> list[torch.Tensor]:
                with use_backend(Backend.NATIVE):
                    return _results(samples.function, values, samples.differentiable)

            with contextlib.suppress(BackendUnavailable):
                call()
                yield f"{op.name}, {sample.why}", call


def _results(function, values, names) -> list[torch.Tensor]:
    copies = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    result, grads = forward_and_gradients(function, copies, names)
    return [result.detach(), *grads.values()]


def crf_calls(height: int = 45, width: int = 61, labels: int = 5) -> Iterator[tuple[str, Call]]:
    """DenseCRF by every method, with gradients; mean_field; pydensecrf's interface."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, labels, height, width, generator=generator)
    images = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)

    for method in ("lattice", "exact", "window"):
        for trained in (False, True):

            def call(method=method, trained=trained) -> list[torch.Tensor]:
                kernels = (GaussianKernel(2.5, 1.0), BilateralKernel(20.0, 40.0, 2.0))
                crf = DenseCRF(labels, kernels, iterations=2, method=method, radius=3)
                for kernel in crf.kernels:
                    kernel.log_scales.requires_grad_(trained)
                scores = logits.clone().requires_grad_()
                result = crf(scores, images)
                leaves = [scores, *(p for p in crf.parameters() if p.requires_grad)]
                loss = (result * torch.linspace(0, 1, result.numel()).view_as(result)).sum()
                return [result.detach(), *torch.autograd.grad(loss, leaves)]

            yield f"DenseCRF, {method}{', widths trained' if trained else ''}", call

    def of_mean_field() -> list[torch.Tensor]:
        features = torch.randn(2, 4, height * width, generator=torch.Generator().manual_seed(1))
        matrix = torch.eye(labels).requires_grad_()
        scores = logits.clone().requires_grad_()
        kernels = [Kernel(Lattice(features * 3), matrix), Kernel(Lattice(features[:, :2] * 3), 1.5)]
        result = mean_field(scores, kernels, 3)
        return [result.detach(), *torch.autograd.grad(result.square().sum(), [scores, matrix])]

    yield "mean_field, full compatibility", of_mean_field

    def of_pydensecrf() -> list[torch.Tensor]:
        d = pydensecrf.DenseCRF2D(width, height, labels)
        d.setUnaryEnergy(-logits[0].flatten(1).numpy())
        d.addPairwiseGaussian(3, 3)
        image = numpy.ascontiguousarray(images[0].permute(1, 2, 0).numpy())
        d.addPairwiseBilateral(80, 13, image, 10)
        return [torch.from_numpy(d.inference(5)), torch.from_numpy(d.map(5))]

    yield "pydensecrf's interface", of_pydensecrf


def all_calls() -> Iterator[tuple[str, Call]]:
    yield from op_calls()
    yield from crf_calls()
