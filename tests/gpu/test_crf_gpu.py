"""The dense CRF on a GPU: the CPU's lattice bit for bit at real sizes, mean field, CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from fastseg import use_backend
from fastseg.crf import DenseCRF, Kernel, Lattice, mean_field, mean_field_labels

pytestmark = pytest.mark.gpu


def photograph(batch: int = 2, height: int = 183, width: int = 250) -> torch.Tensor:
    """Smooth colours with some noise [N, 3, H, W], of 0..255."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = torch.randn(smooth.shape, generator=generator) * 0.02
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


def test_mean_field_in_a_cuda_graph():
    """Lattice and inference recorded together, replayed on another image."""
    first, second = (bilateral(photograph(1, 40, 50 + i))[:, :, :2000].cuda() for i in (0, 10))
    logits = torch.randn(1, 21, 2000, device="cuda")

    def run() -> list[torch.Tensor]:
        kernels = [Kernel(Lattice(features), 3.0)]
        return [mean_field(logits, kernels, 3), mean_field_labels(logits, kernels, 3)]

    features = first.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    features.copy_(second)
    graph.replay()
    assert all(map(torch.equal, captured, run()))
