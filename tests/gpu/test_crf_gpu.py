"""The dense CRF on a GPU: the CPU's lattice bit for bit at real sizes; mean field, its numbers,
bits, memory, graphs, streams, devices and sizes beyond 2^31."""

from __future__ import annotations

import pytest
import torch

from fastseg import use_backend
from fastseg.crf import DenseCRF, Kernel, Lattice, mean_field, mean_field_labels

pytestmark = pytest.mark.gpu


def photograph(
    batch: int = 2, height: int = 183, width: int = 250, noise_level: float = 0.02
) -> torch.Tensor:
    """Smooth colours with some noise [N, 3, H, W], of 0..255."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = torch.randn(smooth.shape, generator=generator) * noise_level
    return ((smooth + noise).clamp(0, 1) * 255).round()


def bilateral(images: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    height, width = images.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([x, y]).to(dtype).expand(len(images), 2, height, width)
    return torch.cat([places / 80.0, images.to(dtype) / 13.0], 1).flatten(2)


def assert_same_lattice(ours: Lattice, expected: Lattice) -> None:
    assert ours.num_vertices == expected.num_vertices
    for image in range(expected.batch):
        pairs = zip(ours.tables(image), expected.tables(image), strict=True)
        assert all(torch.equal(x.cpu(), y) for x, y in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_lattice_of_the_cpu(dtype):
    features = bilateral(photograph(), dtype)
    expected = Lattice(features)
    for _ in range(3):  # a race would not show every time
        assert_same_lattice(Lattice(features.cuda()), expected)


@pytest.mark.parametrize("count", range(1, 9))
def test_the_lattice_of_the_cpu_in_every_dimension(count):
    generator = torch.Generator().manual_seed(count)
    features = torch.randn(3, count, 10_001, generator=generator) * 2.0
    assert_same_lattice(Lattice(features.cuda()), Lattice(features))
    uniform = torch.full((1, count, 50_000), 0.3)
    assert_same_lattice(Lattice(uniform.cuda()), Lattice(uniform))


@pytest.mark.parametrize("labels", [1, 2, 21, 150, 300])
@pytest.mark.parametrize("kind", [0, 1, 2], ids=["scalar", "diagonal", "full"])
def test_mean_field_on_a_lattice(labels, kind):
    generator = torch.Generator().manual_seed(labels)
    features = bilateral(photograph(2, 40, 50))
    logits = torch.randn(2, labels, 2000, generator=generator) * 2.0
    matrix = torch.randn((labels,) * kind, generator=generator) * 0.5 + (kind == 0)

    def run(device: str) -> torch.Tensor:
        kernels = [
            Kernel(Lattice(f.to(device)), matrix.to(device)) for f in (features, features[0])
        ]
        return mean_field(logits.to(device), kernels, 3)

    with use_backend("native"):
        assert (run("cuda").cpu() - run("cpu")).abs().max() <= 2e-5


def test_a_dense_crf_and_its_labels():
    images = photograph(2, 90, 101)
    logits = torch.randn(2, 5, 90, 101, generator=torch.Generator().manual_seed(1)) * 3.0
    crf = DenseCRF(5)
    with torch.no_grad():
        expected = crf(logits, images)
        on_gpu = crf.cuda()
        ours = on_gpu(logits.cuda(), images.cuda())
        labels = on_gpu.predict(logits.cuda(), images.cuda())
    assert (ours.exp().cpu() - expected.exp()).abs().max() <= 1e-4
    assert torch.equal(labels.long(), ours.argmax(1))
    weight = torch.linspace(-1, 1, ours.numel()).view(ours.shape)
    grads = []
    for device in ("cuda", "cpu"):
        x = logits.to(device).requires_grad_()
        loss = (crf.to(device)(x, images.to(device)).exp() * weight.to(device)).sum()
        grads.append(torch.autograd.grad(loss, [x, *filter(_is_trained, crf.parameters())]))
    for x, y in zip(*grads, strict=True):
        torch.testing.assert_close(x.cpu(), y, rtol=1e-3, atol=1e-4 * y.abs().max().item())


def _is_trained(parameter: torch.nn.Parameter) -> bool:
    return parameter.requires_grad


# Mean field with its derivative: what tests/gpu/test_all_ops_gpu.py asks of the ops.


def step(features: torch.Tensor, logits: torch.Tensor, matrix: torch.Tensor) -> list[torch.Tensor]:
    """Probabilities and labels on lattices of these features, gradients to logits and matrix."""
    leaves = [logits.detach().requires_grad_(), matrix.detach().requires_grad_()]
    kernels = [Kernel(Lattice(features), leaves[1]), Kernel(Lattice(features[:1, :2]), 3.0)]
    with use_backend("native"):
        q = mean_field(leaves[0], kernels, 3)
        labels = mean_field_labels(logits, kernels, 3)
        grads = torch.autograd.grad(q, leaves, q.detach().square())
    return [q.detach(), labels, *grads]


def step_inputs(seed: int = 0, kind: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    features = bilateral(photograph(2, 40, 50 + 10 * seed))[:, :, :2000].contiguous()
    logits = torch.randn(2, 21, 2000, generator=generator) * 2
    matrix = torch.randn((21,) * kind, generator=generator) * 0.5
    return tuple(x.cuda() for x in (features, logits, matrix))


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["scalar", "diagonal", "full"])
def test_the_same_bits_again(kind, deterministic):
    inputs = step_inputs(kind=kind)
    first = step(*inputs)
    for _ in range(3):
        assert all(map(torch.equal, first, step(*inputs)))


def test_in_a_cuda_graph(captured):
    """Lattices, inference and derivative recorded together, replayed on another image."""
    inputs, others = step_inputs(0), step_inputs(1)
    graph, results = captured(lambda: step(*inputs))
    for x, y in zip(inputs, others, strict=True):
        x.copy_(y)
    graph.replay()
    assert all(map(torch.equal, results, step(*others)))


def test_on_the_current_stream(on_a_busy_stream):
    inputs, late = step_inputs(1), step_inputs(0)
    expected = step(*inputs)
    with on_a_busy_stream():
        for x, y in zip(late, inputs, strict=True):
            x.copy_(y)
        ours = step(*late)
    assert all(map(torch.equal, ours, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one():
    inputs = step_inputs()
    expected = step(*inputs)
    ours = step(*(x.to("cuda:1") for x in inputs))
    assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in ours)
    assert all(map(torch.equal, (x.to("cuda:0") for x in ours), expected))


def test_autocast_changes_nothing():
    inputs = step_inputs()
    expected = step(*inputs)
    with torch.autocast("cuda", torch.bfloat16):
        assert all(map(torch.equal, step(*inputs), expected))


def test_memory_that_the_backward_keeps():
    """At most a quarter of the probabilities of every step."""
    images = photograph(1, 366, 500, noise_level=0.0) / 2
    logits = torch.randn(1, 21, 366 * 500, device="cuda").requires_grad_()
    places = bilateral(images)[:, :2] * 80 / 3
    kernels = [Kernel(Lattice(f.cuda()), w) for f, w in ((places, 3.0), (bilateral(images), 10.0))]
    saved: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        saved[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        mean_field(logits, kernels, 5)
    del saved[logits.data_ptr()]
    assert 0 < sum(saved.values()) <= 5 * logits.nbytes / 4


def test_more_than_2_to_the_31_elements():
    """The last image of a large batch gets what it gets alone."""
    if torch.cuda.mem_get_info()[0] < 64 << 30:
        pytest.skip("needs 64 GiB of free GPU memory")
    position = torch.arange(4_400_000, device="cuda") / 100_000
    kernel = Kernel(Lattice(torch.stack([position.sin(), position.cos()])[None].mul(3)), 2.0)
    logits = torch.empty(3, 170, 4_400_000, device="cuda", dtype=torch.bfloat16).normal_()
    ours = mean_field(logits, [kernel], 1)[2:].clone()
    assert torch.equal(ours, mean_field(logits[2:], [kernel], 1))
