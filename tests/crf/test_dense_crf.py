"""The layer fastseg.crf.DenseCRF."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path

import numpy
import pytest
import torch

from fastseg import gaussian_filter, permutohedral_filter, upsample_bilinear
from fastseg.crf import (
    PRESETS,
    BilateralKernel,
    DenseCRF,
    FeatureKernel,
    GaussianKernel,
    window_filter,
)
from fastseg.crf.features import bilateral_features
from fastseg.testing import relative_error

METHODS = ("lattice", "exact", "window")
RECORDED = Path(__file__).parent / "recorded"
NORMALIZATIONS = {"no": "none", "before": "before", "after": "after", "symmetric": "symmetric"}


def _case(folder: Path, name: str = "rand_a_24x31x5"):
    data = numpy.load(folder / "crf" / f"{name}.npz")
    height, width = data["rgb"].shape[:2]
    unary = torch.from_numpy(data["unary"]).unflatten(1, (height, width))[None]
    images = torch.from_numpy(data["rgb"]).permute(2, 0, 1)[None]
    return data, unary, images


def _terms(data, kind: str, **rest) -> list[dict]:
    """The compatibilities of a recorded case: matrices are used symmetrised there."""
    compat = [data[f"compat_{kind}_{kernel}"] for kernel in ("gauss", "bil")]
    if kind == "potts":
        return [{"weight": c.item(), **rest} for c in compat]
    symmetric = [c if c.ndim == 1 else (c + c.T) / 2 for c in compat]
    return [{"weight": 1.0, "compatibility": torch.from_numpy(c), **rest} for c in symmetric]


@pytest.mark.parametrize("kind", ["potts_no", "potts_before", "potts_after", "diag_symmetric"])
@pytest.mark.parametrize("steps", [1, 5, 10])
def test_exact_method_on_recorded_features(shared_data, steps, kind):
    """Q in float64, from other code; most of it was stored in float32."""
    data, unary, _ = _case(shared_data)
    compat, name = kind.split("_")
    terms = _terms(data, compat, normalization=NORMALIZATIONS[name])
    features = [torch.from_numpy(data[f"feat_{k}"]).double() for k in ("gauss", "bil")]
    kernels = [
        FeatureKernel([1.0] * len(f), **term) for f, term in zip(features, terms, strict=True)
    ]
    crf = DenseCRF(5, kernels, iterations=steps, method="exact").double()
    planes = [f.unflatten(1, unary.shape[2:])[None] for f in features]
    q = crf(unary=unary.double(), features=planes).softmax(1).flatten(2)[0]
    expected = torch.from_numpy(data[f"exact_Q{steps}_{kind}"])
    assert (q - expected).abs().max() < 1e-7


@pytest.mark.parametrize("kind", ["potts", "matrix"])
@pytest.mark.parametrize("case", ["rand_a_24x31x5", "rand_d_19x22x2"])
def test_exact_method_on_recorded_images(shared_data, case, kind):
    """Features in float64 are not those that were recorded, which are float32."""
    data, unary, images = _case(shared_data, case)
    p = json.loads(str(data["params"]))
    terms = _terms(data, kind)
    kernels = [
        GaussianKernel(p["sxy_gauss"], **terms[0]),
        BilateralKernel(p["sxy_bil"], p["srgb"], **terms[1]),
    ]
    crf = DenseCRF(p["L"], kernels, iterations=5, method="exact")
    expected = torch.from_numpy(data[f"exact_Q5_{kind}_symmetric"]).double()
    for dtype, most in ((torch.float64, 2e-6), (torch.float32, 1e-4)):
        q = crf(unary=unary.to(dtype), images=images).softmax(1).flatten(2)[0]
        assert (q - expected).abs().max() < most


@pytest.mark.parametrize("kind", ["potts", "diag", "matrix"])
@pytest.mark.parametrize("case", ["rand_a_24x31x5", "rand_d_19x22x2"])
def test_lattice_method_is_pydensecrfs(case, kind):
    data = numpy.load(RECORDED / f"{case}.npz")
    p = json.loads(str(data["params"]))
    unary = torch.from_numpy(data["unary"]).unflatten(1, (p["h"], p["w"]))[None]
    images = torch.from_numpy(data["rgb"]).permute(2, 0, 1)[None]
    terms = _terms(data, kind)
    kernels = [
        GaussianKernel(p["sxy_gauss"], **terms[0]),
        BilateralKernel(p["sxy_bil"], p["srgb"], **terms[1]),
    ]
    # Two images: one lattice of positions serves both.
    q = DenseCRF(p["L"], kernels)(
        unary=unary.expand(2, -1, -1, -1), images=images.expand(2, -1, -1, -1)
    ).softmax(1)
    expected = torch.from_numpy(data[f"Q5_{kind}_symmetric"])
    assert (q.flatten(2) - expected).abs().max() < 2e-5


def _small(method: str, *, size: tuple[int, int] = (5, 6), **options) -> tuple:
    """A CRF with one kernel of every kind and compatibility, and inputs for it, in float64."""
    torch.manual_seed(0)
    kernels = [
        GaussianKernel(1.5, 0.7, normalization="after"),
        BilateralKernel(3.0, 0.5, 1.3, compatibility=torch.randn(3)),
        FeatureKernel([1.0, 0.8], 0.9, compatibility=torch.randn(3, 3), normalization="before"),
    ]
    crf = DenseCRF(3, kernels, iterations=2, method=method, radius=2, **options).double()
    logits = torch.randn(2, 3, *size, dtype=torch.float64)
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    features = torch.randn(2, 2, *size, dtype=torch.float64)
    return crf, logits, images, features


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck(method):
    """The lattice jumps where a pixel's simplex changes: no differences across that."""
    crf, logits, images, features = _small(method)
    guides = method != "lattice"
    learned = {n: p.detach().clone() for n, p in crf.named_parameters()}
    moved = [n for n in learned if guides or "scales" not in n]

    def run(logits, images, features, *values):
        parameters = {**learned, **dict(zip(moved, values, strict=True))}
        arguments = (logits, images), {"features": [features]}
        return torch.func.functional_call(crf, parameters, *arguments)

    inputs = [logits.requires_grad_(), *(x.requires_grad_(guides) for x in (images, features))]
    values = [learned[n].requires_grad_() for n in moved]
    assert torch.autograd.gradcheck(run, (*inputs, *values), fast_mode=True)


def test_lattice_gradients_of_widths_are_those_of_the_filter():
    """One step with one kernel, against permutohedral_filter's own derivative (fixed simplices)."""
    torch.manual_seed(0)
    logits, features = torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 6)
    kernel = FeatureKernel([1.5, 0.8], 1.3, normalization="none")
    kernel.log_scales.requires_grad_()
    crf = DenseCRF(2, [kernel], iterations=1)
    upstream = torch.randn(1, 2, 5, 6)
    refined = crf(logits, features=[features])
    # The way back through the log-softmax of the result.
    back = upstream - refined.detach().exp() * upstream.sum(1, keepdim=True)
    ours = torch.autograd.grad(refined, kernel.log_scales, upstream)[0]
    scaled = (features.flatten(2) / kernel.widths.detach()[:, None]).requires_grad_()
    filtered = permutohedral_filter(logits.softmax(1).flatten(2), scaled)
    grad = torch.autograd.grad(1.3 * filtered, scaled, back.flatten(2))[0]
    expected = -(grad * scaled).sum((0, 2))  # d(f / w) / d(log w) = -f / w
    assert relative_error(ours, expected) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_features_of_a_network_get_gradients(method):
    """Images and features that require a gradient get one, and the result does not change."""
    crf, logits, images, features = _small(method)
    expected = crf(logits, images, features=[features]).detach()
    guides = [images.requires_grad_(), features.requires_grad_()]
    refined = crf(logits, images, features=[features])
    assert relative_error(refined, expected) < 1e-12
    for grad in torch.autograd.grad((refined * logits).sum(), guides):
        assert grad.isfinite().all() and (grad != 0).any()


def test_window_is_the_exact_sum_cut_off():
    torch.manual_seed(0)
    values, features = torch.randn(2, 3, 6, 7), torch.randn(2, 2, 6, 7)
    whole = gaussian_filter(values.flatten(2), features.flatten(2)).unflatten(2, (6, 7))
    assert relative_error(window_filter(values, features, 10), whole) < 1e-6
    assert torch.equal(window_filter(values, features, 0), values)
    # One pixel, by hand.
    expected = torch.zeros(2, 3)
    for y in range(1, 4):
        for x in range(4, 7):
            distance = (features[:, :, 2, 5] - features[:, :, y, x]).square().sum(1)
            expected += torch.exp(-distance / 2)[:, None] * values[:, :, y, x]
    assert relative_error(window_filter(values, features, 1)[:, :, 2, 5], expected) < 1e-6


def test_window_that_spans_the_image_is_the_exact_method():
    crf, logits, images, features = _small("exact")
    exact = crf(logits, images, features=[features])
    crf.method, crf.radius = "window", 20
    assert relative_error(crf(logits, images, features=[features]), exact) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_images_of_a_batch_are_independent(method):
    crf, logits, images, features = _small(method)
    together = crf(logits, images, features=[features])
    for i in range(2):
        s = slice(i, i + 1)
        alone = crf(logits[s], images[s], features=[features[s]])
        assert relative_error(together[s], alone) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_low_resolution_logits_are_upsampled(method):
    crf, _, images, features = _small(method)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64)
    full = upsample_bilinear(logits, (5, 6))
    expected = crf(full, images, features=[features])
    assert relative_error(crf(logits, images, features=[features]), expected) < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_energies_are_negative_logits(method):
    crf, logits, images, features = _small(method)
    expected = crf(logits, images, features=[features])
    assert torch.equal(crf(unary=-logits, images=images, features=[features]), expected)


@pytest.mark.parametrize("method", METHODS)
def test_small_cases(method):
    one = DenseCRF(1, method=method)(torch.randn(1, 1, 4, 5), torch.rand(1, 3, 4, 5))
    assert torch.equal(one.softmax(1), torch.ones(1, 1, 4, 5))
    crf = DenseCRF(3, method=method)
    assert crf(torch.randn(0, 3, 4, 5), torch.rand(0, 3, 4, 5)).shape == (0, 3, 4, 5)
    pixel = torch.randn(1, 3, 1, 1)
    # One pixel is its own neighbour: each step adds the weights times its probabilities.
    q = pixel
    for _ in range(5):
        q = pixel + (3 + 10) * q.softmax(1)
    assert relative_error(crf(pixel, torch.rand(1, 3, 1, 1)).softmax(1), q.softmax(1)) < 1e-5
    constant = crf(torch.randn(1, 3, 4, 5), torch.full((1, 3, 4, 5), 7, dtype=torch.uint8))
    assert constant.isfinite().all()
    none = DenseCRF(3, [], iterations=4, method=method)
    assert torch.allclose(none(pixel), pixel.log_softmax(1))
    still = DenseCRF(3, iterations=0, method=method)
    assert torch.allclose(still(pixel, torch.rand(1, 3, 1, 1)), pixel.log_softmax(1))


@pytest.mark.parametrize("method", METHODS)
def test_excluded_labels_stay_excluded(method):
    crf = DenseCRF(3, method=method)
    logits, images = torch.randn(1, 3, 6, 6), torch.randint(0, 256, (1, 3, 6, 6))
    logits[:, 1, :3] = -torch.inf
    q = crf(logits, images).softmax(1)
    assert q.isfinite().all() and (q[:, 1, :3] < 1e-37).all()


def test_learns_what_made_the_labels():
    """Gradient descent on logits that are noisy inside two flat areas: the weights grow."""
    torch.manual_seed(0)
    labels = torch.zeros(1, 12, 12, dtype=torch.long)
    labels[:, :, 6:] = 1
    images = labels[:, None].float().expand(1, 3, 12, 12) * 200
    logits = torch.nn.functional.one_hot(labels, 2).permute(0, 3, 1, 2) + 1.5 * torch.randn(
        1, 2, 12, 12
    )
    crf = DenseCRF(2, [GaussianKernel(2.0, 0.1), BilateralKernel(6.0, 20.0, 0.1)], method="exact")
    crf.kernels[1].log_scales.requires_grad_()
    before = copy.deepcopy(crf.state_dict())
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(crf(logits, images), labels)
        learned = [p for p in crf.parameters() if p.requires_grad]
        with torch.no_grad():
            for p, grad in zip(learned, torch.autograd.grad(loss, learned), strict=True):
                p -= 5.0 * grad
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert crf.kernels[1].weight > before["kernels.1.weight"] + 0.5
    assert not torch.equal(crf.kernels[1].log_scales, before["kernels.1.log_scales"])
    assert torch.equal(crf.kernels[0].log_scales, before["kernels.0.log_scales"])
    assert (crf.predict(logits, images) == labels).float().mean() > 0.95


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    crf = DenseCRF.preset(name, 4, method="window", iterations=2)
    assert crf.iterations == 2 and len(crf.kernels) == 2
    numbers = PRESETS[name]
    assert crf.kernels[1].widths.tolist() == pytest.approx(
        [numbers.bilateral_width, numbers.color_width]
    )
    labels = crf.predict(torch.randn(1, 4, 8, 9), torch.randint(0, 256, (1, 3, 8, 9)))
    assert labels.dtype is torch.uint8 and labels.shape == (1, 8, 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(dtype):
    torch.manual_seed(0)
    crf = DenseCRF(3, method="exact")
    logits, images = torch.randn(1, 3, 6, 7).to(dtype), torch.randint(0, 256, (1, 3, 6, 7))
    expected = crf(logits.float(), images)
    result = crf(logits, images)
    assert result.dtype is dtype and torch.equal(result, expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crf(logits.float(), images), expected)


def test_state_dict_round_trip():
    crf, logits, images, features = _small("exact")
    other = _small("exact")[0]
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.3)
    other.load_state_dict(crf.state_dict())
    expected = crf(logits, images, features=[features])
    assert torch.equal(other(logits, images, features=[features]), expected)


def _compilable(method: str) -> tuple:
    torch.manual_seed(0)
    crf = DenseCRF(3, method=method, iterations=2, radius=2)
    return crf, torch.randn(1, 3, 6, 7), torch.randint(0, 256, (1, 3, 6, 7))


@pytest.mark.parametrize("learned", [False, True])
def test_compile_breaks_the_graph_quietly(learned):
    """Native lattices are not traced, of which the compiler would complain at length."""
    crf, logits, images = _compilable("lattice")
    crf.kernels[1].log_scales.requires_grad_(learned)
    expected = crf(logits.requires_grad_(), images)
    parameters = [logits, *(p for p in crf.parameters() if p.requires_grad)]
    torch.compiler.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torch.compile(crf, backend="eager", fullgraph=learned)(logits, images)
    assert not [w for w in caught if "Dynamo" in str(w.message)]
    assert relative_error(result, expected) < 1e-5
    grads, right = (torch.autograd.grad(x[:, 0].sum(), parameters) for x in (result, expected))
    for grad, of_eager in zip(grads, right, strict=True):
        assert relative_error(grad, of_eager) < 1e-4


def test_arguments_are_checked_within_compiled_code():
    """PyTorch 2.11 has no exception for operator.index of a float in what it compiles."""

    def made(x):
        try:
            DenseCRF(2.5)
        except TypeError:
            return x * DenseCRF(3).classes
        return x

    torch.compiler.reset()
    assert torch.compile(made, backend="eager")(torch.ones(())) == 3


@pytest.mark.parametrize("method", METHODS)
def test_the_default_device_does_not_matter(method):
    """What is computed for CPU tensors is on the CPU, or a kernel would write elsewhere."""
    crf, logits, images = _compilable(method)
    crf.kernels[0].compatibility = torch.nn.Parameter(-torch.eye(3))

    def run() -> list[torch.Tensor]:
        leaves = [logits.clone().requires_grad_(), crf.kernels[0].compatibility]
        refined = crf(leaves[0], images)
        grads = torch.autograd.grad(refined.square().sum(), leaves)
        return [refined, *grads, crf.predict(logits, images)]

    expected = run()
    with torch.device("meta"):
        result = run()
    assert all(map(torch.equal, result, expected))


@pytest.mark.parametrize("method", METHODS)
def test_export(method):
    crf, logits, images = _compilable(method)
    exported = torch.export.export(crf, (logits, images)).module()
    for x in (logits, logits.flip(2)):
        assert relative_error(exported(x, images), crf(x, images)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("image_dtype", [torch.uint8, torch.float16, torch.float32])
def test_features_are_the_same_with_and_without_a_gradient(dtype, image_dtype):
    generator = torch.Generator().manual_seed(11)
    images = (255 * torch.rand(2, 3, 9, 14, generator=generator)).to(image_dtype).transpose(2, 3)
    like, color_widths = torch.empty(0, dtype=dtype), torch.tensor([3.3, 20.0, 11.0], dtype=dtype)
    trained = torch.tensor([7.0, 80.0], dtype=dtype, requires_grad=True)
    recorded = bilateral_features(images, trained, color_widths, like=like)
    plain = bilateral_features(images, trained.detach(), color_widths, like=like)
    assert recorded.requires_grad and not plain.requires_grad
    assert plain.dtype is dtype and torch.equal(plain, recorded)
