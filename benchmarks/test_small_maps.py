"""`upsample_bilinear` on small maps against F.interpolate, float32, in both memory formats.

Here the time is that of the call, not of the arithmetic. Each case is checked before it is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from race import FORMATS, race

import fastseg
from fastseg.bench.timing import Variant
from fastseg.testing import relative_error

# Channels and side; the sides are doubled.
MAPS = tuple((channels, side) for channels in (16, 64, 256) for side in (5, 10, 20, 40, 80))
CALLS = 50  # in one timed run


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("channels", "side"), MAPS)
def test_small_maps(
    channels: int,
    side: int,
    layout: str,
    benchmark: Any,
    say: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    on_gpu = torch.cuda.is_available() and not pytestconfig.getoption("--cpu")
    device = "cuda" if on_gpu else "cpu"
    x = torch.randn(1, channels, side, side, device=device)
    x = x.contiguous(memory_format=FORMATS[layout])
    size = (2 * side, 2 * side)

    @torch.no_grad()
    def ours(_: Any) -> torch.Tensor:
        for _ in range(CALLS):
            y = fastseg.upsample_bilinear(x, size)
        return y

    @torch.no_grad()
    def theirs(_: Any) -> torch.Tensor:
        for _ in range(CALLS):
            y = F.interpolate(x, size, mode="bilinear")
        return y

    assert relative_error(ours(None), theirs(None)) < 1e-5
    race(
        f"{CALLS} maps of {channels} channels, {side} -> {2 * side}, {layout}",
        [Variant(f"fastseg {layout}", ours), Variant(f"F.interpolate {layout}", theirs)],
        peer="F.interpolate",
        device=device,
        budget_s=0.2 if pytestconfig.getoption("--quick") else 1.0,
        group="small maps",
        benchmark=benchmark,
        say=say,
    )
