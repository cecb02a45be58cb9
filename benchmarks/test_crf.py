"""Dense CRF inference against pydensecrf, everything included: lattices, five steps, result.

pydensecrf (`pip install pydensecrf2`: its 1.1 is the same source and builds) is optional; without
it fastseg is timed alone. It runs in one thread, as it always does. The image is a photograph
where the shared data is at hand, else a synthetic one. Each case is checked before it is timed.
On a machine that does other work too, set OMP_WAIT_POLICY=passive.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fastseg.bench.timing import Variant, time_interleaved
from fastseg.crf import Kernel, Lattice, mean_field

SHARED = Path(os.environ.get("FASTSEG_SHARED", Path(__file__).resolve().parents[2] / "shared"))
PHOTOGRAPHS = {
    (366, 500): "ade20k_val_00000001.jpg",
    (213, 320): "pet_Abyssinian_1.jpg",
    (1024, 2048): "street_cityscapes_frankfurt_000001_058914.png",
}
STEPS = 5


@dataclasses.dataclass(frozen=True)
class CrfCase:
    """`full`: a matrix of compatibilities instead of the Potts model."""

    height: int
    width: int
    labels: int
    full: bool = False
    batch: int = 1
    quick: bool = False

    def __str__(self) -> str:
        kind = " full" if self.full else ""
        return f"N{self.batch} L{self.labels} {self.height}x{self.width}{kind}"


CASES = (
    CrfCase(366, 500, 21),
    CrfCase(366, 500, 2),
    CrfCase(366, 500, 150),
    CrfCase(366, 500, 21, full=True),
    CrfCase(1024, 2048, 21),
    CrfCase(213, 320, 2, quick=True),
    CrfCase(366, 500, 21, batch=16),
)


def _image(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]."""
    path = SHARED / "data" / "samples" / PHOTOGRAPHS[height, width]
    if path.is_file():
        from PIL import Image

        with Image.open(path) as photograph:
            image = np.asarray(photograph.convert("RGB"))
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        return np.ascontiguousarray(image[top : top + height, left : left + width])
    y, x = np.mgrid[:height, :width] / 40.0
    smooth = np.stack([np.sin(x + y), np.cos(1.7 * x), np.sin(2.3 * y)], 2) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 4, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


def _energies(case: CrfCase) -> np.ndarray:
    """float32 [L, P] of blobs some 16 pixels wide."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, case.labels, case.height // 16, case.width // 16)
    low = 3.0 * torch.randn(shape, generator=generator)
    logits = torch.nn.functional.interpolate(low, (case.height, case.width), mode="bilinear")
    return (-logits[0].log_softmax(0)).flatten(1).contiguous().numpy()


def _compatibilities(case: CrfCase) -> tuple[Any, Any]:
    """In pydensecrf's convention: Potts weights, or energies between labels."""
    if not case.full:
        return 3.0, 10.0
    matrix = np.random.default_rng(1).normal(0, 0.3, (case.labels, case.labels))
    matrix = ((matrix + matrix.T) / 2 - 3.0 * np.eye(case.labels)).astype(np.float32)
    return matrix, 3.0 * matrix


def _fastseg(case: CrfCase, image: np.ndarray, energies: np.ndarray) -> torch.Tensor:
    """As a program would call it on new images: nothing is kept between calls."""
    height, width = case.height, case.width
    x = torch.arange(width, dtype=torch.float32).expand(height, width)
    y = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    place = torch.stack([x, y])
    colors = torch.from_numpy(image).permute(2, 0, 1) / 13.0
    both = torch.cat([place / 80.0, colors]).flatten(1)
    lattices = Lattice(place.flatten(1) / 3.0), Lattice(both.expand(case.batch, -1, -1))
    weights = [w if isinstance(w, float) else -torch.from_numpy(w) for w in _compatibilities(case)]
    kernels = [Kernel(lattice, w) for lattice, w in zip(lattices, weights, strict=True)]
    logits = -torch.from_numpy(energies).view(1, case.labels, height, width)
    return mean_field(logits.expand(case.batch, -1, -1, -1), kernels, STEPS)


def _pydensecrf(case: CrfCase, image: np.ndarray, energies: np.ndarray) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D

    for _ in range(case.batch):
        crf = DenseCRF2D(case.width, case.height, case.labels)
        crf.setUnaryEnergy(energies)
        gaussian, bilateral = _compatibilities(case)
        crf.addPairwiseGaussian(sxy=3, compat=gaussian)
        crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=bilateral)
        q = np.array(crf.inference(STEPS))
    return q


@pytest.mark.parametrize("crf_case", CASES, ids=str)
def test_crf(crf_case: CrfCase, benchmark: Any, request: pytest.FixtureRequest) -> None:
    case = crf_case
    quick = request.config.getoption("--quick")
    if quick and not case.quick:
        pytest.skip("--quick takes the smallest case")
    image, energies = _image(case.height, case.width), _energies(case)
    variants = [Variant("fastseg", lambda _: _fastseg(case, image, energies))]
    try:
        expected = torch.from_numpy(
            _pydensecrf(dataclasses.replace(case, batch=1), image, energies)
        )
    except ImportError:
        benchmark.extra_info["peer"] = "pydensecrf is not installed (pip install pydensecrf2)"
    else:
        ours = _fastseg(case, image, energies)[-1].flatten(1)
        assert (ours - expected).abs().max() < 1e-3
        assert (ours.argmax(0) == expected.argmax(0)).double().mean() > 0.9999
        variants.append(Variant("pydensecrf", lambda _: _pydensecrf(case, image, energies)))
    times = time_interleaved(variants, device="cpu", budget_s=1.0 if quick else 10.0, min_rounds=3)
    for name, time in times.items():
        benchmark.extra_info[f"{name}_ms"] = time.median * 1e3
    if "pydensecrf" in times:
        ratio = times["pydensecrf"].median / times["fastseg"].median
        benchmark.extra_info["ratio"] = ratio
        print(f"\n{case}: {ratio:.1f} times as fast as pydensecrf")
    benchmark.pedantic(_fastseg, (case, image, energies), rounds=3)
