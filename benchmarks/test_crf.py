"""Dense CRF inference against pydensecrf, everything included: lattices, five steps, result.

Single images: one program for both, with fastseg.crf.densecrf in pydensecrf's place. A batch: the
network's logits through mean_field. As for any stream of images of one size, fastseg finds the
lattice of their positions in its cache; that of their colours it builds at every call.

pydensecrf (`pip install pydensecrf2`: its 1.1 is the same source and builds) is optional; without
it fastseg is timed alone. It runs in one thread, as it always does. The image is a photograph
where the shared data is at hand, else a synthetic one. Each case is checked before it is timed.
On a machine that does other work too, set OMP_WAIT_POLICY=passive.

Training: forward and backward of a CRF as a recurrent network, beside crfasrnn_pytorch where it is
at hand (github.com/sadeepj/crfasrnn_pytorch: build its `permuto_cpp`, put both on PYTHONPATH).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastseg.crf.densecrf
from fastseg.bench.cases import as_word
from fastseg.bench.timing import Variant, time_interleaved
from fastseg.crf import Kernel, Lattice, mean_field
from fastseg.crf.features import bilateral_features
from fastseg.crf.spatial import position_lattice

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


def _photograph(height: int, width: int) -> Path:
    return SHARED / "data" / "samples" / PHOTOGRAPHS[height, width]


def _image(height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]."""
    path = _photograph(height, width)
    if path.is_file():
        from PIL import Image

        with Image.open(path) as photograph:
            image = np.asarray(photograph.convert("RGB"))
        top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        # A copy: pydensecrf takes no array that it may not write to.
        return image[top : top + height, left : left + width].copy()
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


def _infer(library: Any, case: CrfCase, image: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Probabilities [L, P] by pydensecrf.densecrf or the module in its place."""
    crf = library.DenseCRF2D(case.width, case.height, case.labels)
    crf.setUnaryEnergy(energies)
    gaussian, bilateral = _compatibilities(case)
    crf.addPairwiseGaussian(sxy=3, compat=gaussian)
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=image, compat=bilateral)
    return np.array(crf.inference(STEPS), copy=None)


def _infer_batch(case: CrfCase, images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Probabilities [N, L, H, W] of images [N, 3, H, W] and logits [N, L, H, W]."""
    gaussian, bilateral = _compatibilities(case)
    colors = bilateral_features(images, torch.tensor(80.0), torch.tensor(13.0), like=logits)
    place = position_lattice(case.height, case.width, (3.0, 3.0), like=logits)
    return mean_field(logits, [Kernel(place, gaussian), Kernel(Lattice(colors), bilateral)], STEPS)


def _fastseg(case: CrfCase, image: np.ndarray, energies: np.ndarray) -> Callable[[], Any]:
    if case.batch == 1:
        return lambda: _infer(fastseg.crf.densecrf, case, image, energies)
    images = torch.from_numpy(image).permute(2, 0, 1).repeat(case.batch, 1, 1, 1)
    shape = (1, case.labels, case.height, case.width)
    logits = -torch.from_numpy(energies).view(shape).repeat(case.batch, 1, 1, 1)
    return lambda: _infer_batch(case, images, logits)


def _time(variants: list[Variant], benchmark: Any, what: str, budget_s: float) -> None:
    """Times fastseg, the first variant, beside its peer where there is one."""
    times = time_interleaved(variants, device="cpu", budget_s=budget_s, min_rounds=3)
    for name, time in times.items():
        benchmark.extra_info[f"{name}_ms"] = time.median * 1e3
    ours, *peers = times
    for peer in peers:
        ratio = times[peer].median / times[ours].median
        benchmark.extra_info["ratio"] = ratio
        print(f"\n{what}: {ratio:.1f} times as fast as {peer}")


@pytest.mark.parametrize("crf_case", CASES, ids=as_word)
def test_crf(crf_case: CrfCase, benchmark: Any, request: pytest.FixtureRequest) -> None:
    case = crf_case
    quick = request.config.getoption("--quick")
    if quick and not case.quick:
        pytest.skip("--quick takes the smallest case")
    image, energies = _image(case.height, case.width), _energies(case)
    ours = _fastseg(case, image, energies)
    path = _photograph(case.height, case.width)
    # A noisy one has more vertices: its times are others.
    shown = path.name if path.is_file() else "a synthetic image"
    benchmark.extra_info["image"] = shown
    variants = [Variant("fastseg", lambda _: ours())]
    try:
        from pydensecrf import densecrf as peer
    except ImportError:
        benchmark.extra_info["peer"] = "pydensecrf is not installed (pip install pydensecrf2)"
    else:
        expected = _infer(peer, case, image, energies)
        result = np.asarray(ours()).reshape(case.batch, *expected.shape)[-1]
        assert np.abs(result - expected).max() < 1e-3
        assert (result.argmax(0) == expected.argmax(0)).mean() > 0.9999

        def theirs(_: Any) -> None:
            for _image in range(case.batch):
                _infer(peer, case, image, energies)

        variants.append(Variant("pydensecrf", theirs))
    _time(variants, benchmark, f"{case}, {shown}", budget_s=1.0 if quick else 10.0)
    benchmark.pedantic(ours, rounds=3)


TRAINING = CrfCase(366, 500, 21)


def _gradients(
    infer: Callable[[torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    parameters: Sequence[torch.Tensor],
    target: torch.Tensor,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Probabilities [1, L, H, W], and the gradients of what they give the target labels."""
    inputs = [logits.clone().requires_grad_(), *parameters]
    probabilities = infer(inputs[0])
    loss = probabilities.gather(1, target).mean()
    return probabilities.detach(), list(torch.autograd.grad(loss, inputs))


def test_crf_training(benchmark: Any, request: pytest.FixtureRequest) -> None:
    """Lattices, five steps with a matrix for each kernel, gradients to logits and matrices."""
    if request.config.getoption("--quick"):
        pytest.skip("not a quick case")
    case = TRAINING
    shape = (1, case.labels, case.height, case.width)
    image = torch.from_numpy(_image(case.height, case.width)).permute(2, 0, 1)[None].float()
    logits = -torch.from_numpy(_energies(case)).view(shape)
    target = logits.argmax(1, keepdim=True)
    spatial, bilateral = (
        (weight * torch.eye(case.labels)).requires_grad_() for weight in (3.0, 10.0)
    )

    def infer(values: torch.Tensor) -> torch.Tensor:
        colors = bilateral_features(image, torch.tensor(80.0), torch.tensor(13.0), like=values)
        place = position_lattice(case.height, case.width, (3.0, 3.0), like=values)
        kernels = [Kernel(place, spatial, "after"), Kernel(Lattice(colors), bilateral, "after")]
        return mean_field(values, kernels, STEPS)

    def ours(_: Any = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return _gradients(infer, logits, [spatial, bilateral], target)

    variants = [Variant("fastseg", ours)]
    try:
        import permuto_cpp  # noqa: F401  (its absence is no ImportError inside the package)
        from crfasrnn.crfrnn import CrfRnn
        from crfasrnn.params import DenseCRFParams
    except ImportError:
        benchmark.extra_info["peer"] = "crfasrnn_pytorch is not at hand"
    else:
        layer = CrfRnn(case.labels, STEPS, DenseCRFParams(80.0, 13.0, 3.0, 3.0, 10.0))
        matrices = [layer.spatial_ker_weights, layer.bilateral_ker_weights]

        def theirs(_: Any = None) -> tuple[torch.Tensor, list[torch.Tensor]]:
            return _gradients(lambda x: layer(image, x).softmax(1), logits, matrices, target)

        (result, gradients), (expected, expected_gradients) = ours(), theirs()
        assert (result - expected).abs().max() < 1e-3
        for gradient, other in zip(gradients, expected_gradients, strict=True):
            assert (gradient - other).norm() < 1e-3 * other.norm()
        variants.append(Variant("crfasrnn", theirs))
    _time(variants, benchmark, f"{case}, forward and backward", budget_s=10.0)
    benchmark.pedantic(ours, rounds=3)
