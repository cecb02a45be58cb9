"""Bilinear deconvolutions of FCN against PyTorch's transposed convolution, float32.

The comparison of the weight with the bilinear kernel, made in every call, is in the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from race import FORMATS, race

from fastseg.bench.timing import Variant
from fastseg.nn import BilinearDeconv2d
from fastseg.testing import relative_error

CLASSES = 21
# Scale and map of the last layers of FCN-32s, FCN-16s and FCN-8s for images of about 512 pixels.
LAYERS = ((32, 16), (16, 32), (8, 64))


@pytest.mark.parametrize(("scale", "side"), LAYERS)
def test_deconvolutions(
    scale: int, side: int, benchmark: Any, say: Callable[[str], None], pytestconfig: pytest.Config
) -> None:
    on_gpu = torch.cuda.is_available() and not pytestconfig.getoption("--cpu")
    device = "cuda" if on_gpu else "cpu"
    layer = BilinearDeconv2d(CLASSES, scale, learned=False).to(device)
    x = torch.randn(1, CLASSES, side, side, device=device)
    variants = []
    for name, layout in FORMATS.items():
        given = x.contiguous(memory_format=layout)

        def ours(_: Any, given: torch.Tensor = given) -> torch.Tensor:
            with torch.no_grad():
                return layer(given)

        def theirs(_: Any, given: torch.Tensor = given) -> torch.Tensor:
            with torch.no_grad():
                return F.conv_transpose2d(given, layer.weight, stride=scale)

        variants += [
            Variant(f"fastseg {name}", ours),
            Variant(f"conv_transpose2d {name}", theirs),
        ]
    truth = variants[1].run(None)
    for variant in variants:
        assert relative_error(variant.run(None), truth) < 1e-5, variant.label
    race(
        f"deconvolution x{scale} {side}x{side}, K={CLASSES}",
        variants,
        peer="conv_transpose2d",
        device=device,
        budget_s=1.0 if pytestconfig.getoption("--quick") else 8.0,
        group="deconvolutions",
        benchmark=benchmark,
        say=say,
    )
