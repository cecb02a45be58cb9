"""Heads at low resolution against the layers as written, in float32, in both memory formats.

Each case is checked before it is timed; ratios compare the best layout with the best. `forward`
without gradients; `step` is the forward and the gradients to all maps and weights.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from head_cases import CASES, HeadCase
from race import FORMATS, race

from fastseg.bench.cases import as_word
from fastseg.bench.timing import Variant
from fastseg.testing import relative_error

KINDS = ("fastseg", "as written")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    on_gpu = torch.cuda.is_available() and not metafunc.config.getoption("--cpu")
    quick = metafunc.config.getoption("--quick")
    metafunc.parametrize("head", [c for c in CASES if c.quick or not quick], ids=as_word)
    metafunc.parametrize("device", ["cuda" if on_gpu else "cpu"])


@pytest.mark.parametrize("what", ["forward", "step"])
def test_heads(
    head: HeadCase,
    what: str,
    device: str,
    benchmark: Any,
    say: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    batch = 8 if device == "cuda" else 1
    variants = []
    for name, layout in FORMATS.items():
        maps, weights = head.inputs(batch, layout, device)
        for kind in KINDS:
            function = head.ours if kind == "fastseg" else head.plain
            call = functools.partial(_call, what, function, maps, weights)
            variants.append(Variant(f"{kind} {name}", call))
    _check(variants)
    before, after = (batch * flops for flops in (head.flops.before, head.flops.after))
    race(
        f"{head} {what}",
        variants,
        peer="as written",
        device=device,
        budget_s=1.0 if pytestconfig.getoption("--quick") else 8.0,
        group="heads",
        benchmark=benchmark,
        say=say,
        note=f"(forward {before / 1e9:.1f} -> {after / 1e9:.1f} GFLOP)",
        batch=batch,
        flops={"before": before, "after": after},
    )


def _call(
    what: str, function: Callable[..., torch.Tensor], maps: Any, weights: Any, _: Any
) -> list[torch.Tensor]:
    """The result, or the gradients to maps and weights."""
    if what == "forward":
        with torch.no_grad():
            return [function(maps, weights)]
    leaves = [x.detach().requires_grad_() for x in (*maps, *weights)]
    out = function(leaves[: len(maps)], leaves[len(maps) :])
    return list(torch.autograd.grad(out, leaves, _direction(out)))


def _direction(out: torch.Tensor) -> torch.Tensor:
    """The same random gradient for every variant, in the layout of out."""
    return _random(out.shape, out.stride(), str(out.device))


@functools.lru_cache(maxsize=4)
def _random(shape: torch.Size, stride: tuple[int, ...], device: str) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    return torch.empty_strided(shape, stride, device=device).copy_(x)


def _check(variants: list[Variant]) -> None:
    """All variants have the same results."""
    truth = next(v for v in variants if v.label == "as written NCHW").run(None)
    for variant in variants:
        for i, (x, y) in enumerate(zip(variant.run(None), truth, strict=True)):
            error = relative_error(x, y.double())
            assert error < 1e-4, f"{variant.label}: tensor {i}: {error:.1e}"
