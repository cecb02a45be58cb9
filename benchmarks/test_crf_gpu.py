"""Mean field on a GPU, in its parts: lattices, five steps, labels, derivative; against the same
steps composed of PyTorch's operations and Lattice.filter, which are checked to agree.

    pytest benchmarks/test_crf_gpu.py --benchmark-only
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastseg.bench.memory import peak_extra_bytes
from fastseg.bench.timing import Variant, time_interleaved
from fastseg.crf import Kernel, Lattice, mean_field, mean_field_labels
from fastseg.crf.features import bilateral_features, spatial_features
from fastseg.crf.mean_field import composition

STEPS = 5


def crf_variants(
    height: int, width: int, labels: int, batch: int, device: str
) -> tuple[list[Variant], Callable[[], None]]:
    """What is timed, and the check that comes before."""
    generator = torch.Generator().manual_seed(0)
    coarse = (
        torch.rand(batch, 3, 6, 8, generator=generator) * 128
    )  # as many vertices as photographs
    images = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).to(device)
    logits = 2 * torch.randn(batch, labels, height * width, generator=generator).to(device)
    appearance = bilateral_features(images, 80.0, 13.0, like=images)
    smoothness = spatial_features(1, height, width, 3.0, like=images)
    terms = [Kernel(Lattice(smoothness), 3.0), Kernel(Lattice(appearance), 10.0)]

    def step(infer: Callable[..., torch.Tensor]) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            weight = torch.full((), 10.0, device=device, requires_grad=True)
            leaf = logits.detach().requires_grad_()
            q = infer(leaf, [terms[0], Kernel(terms[1].lattice, weight)], STEPS)
            return torch.autograd.grad(q.square().sum(), [leaf, weight])[0]

        return call

    calls: dict[str, Callable[[], Any]] = {
        "lattice, 5 features": lambda: Lattice(appearance),
        "lattice, 2 features": lambda: Lattice(smoothness),
        "fastseg": lambda: mean_field(logits, terms, STEPS),
        "fastseg labels": lambda: mean_field_labels(logits, terms, STEPS),
        "fastseg training": step(mean_field),
        "composed": lambda: composition(logits, terms, STEPS),
        "composed training": step(composition),
    }

    def check() -> None:
        q = calls["composed"]()
        assert (calls["fastseg"]() - q).abs().max() <= 1e-4
        assert (calls["fastseg labels"]().long() == q.argmax(1)).double().mean() > 0.9999
        grad = calls["composed training"]()
        assert (calls["fastseg training"]() - grad).abs().max() <= 1e-4 * grad.abs().max() + 1e-6

    return [Variant(label, lambda _, call=call: call()) for label, call in calls.items()], check


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("height", "width", "labels", "batch"),
    [(366, 500, 21, 1), (366, 500, 21, 8), (366, 500, 150, 1), (1024, 2048, 19, 1)],
)
def test_crf_gpu(
    height: int,
    width: int,
    labels: int,
    batch: int,
    benchmark: Any,
    say: Callable[[str], None],
) -> None:
    variants, check = crf_variants(height, width, labels, batch, "cuda")
    check()
    timings = time_interleaved(variants, device="cuda", budget_s=3.0, min_rounds=5)
    rows = {
        v.label: {**timings[v.label].summary(), "peak_bytes": peak_extra_bytes(v, "cuda")}
        for v in variants
    }
    times = ", ".join(f"{k} {row['median_s'] * 1e3:.3f} ms" for k, row in rows.items())
    say(f"CRF {height}x{width} L{labels} N{batch}: {times}")
    benchmark.group = "crf"
    benchmark.extra_info["fastseg-crf"] = {"variants": rows}
    benchmark.pedantic(
        next(v for v in variants if v.label == "fastseg").run,
        args=(None,),
        rounds=3,
        warmup_rounds=0,
    )
