"""upsample_bilinear on a GPU: numbers, determinism, graphs, streams, sizes beyond 2^31."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg import Backend, upsample_bilinear, use_backend
from fastseg.ops.upsample_bilinear.samples import SAMPLES
from fastseg.testing import Maker, assert_as_accurate, poisoned_empty

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
filled = [s for s in SAMPLES.samples if s.inputs(Maker())["x"].numel() > 0]
LAYOUTS = (torch.contiguous_format, torch.channels_last)
each_layout = pytest.mark.parametrize(
    "layout", LAYOUTS, ids=lambda f: str(f).removeprefix("torch.")
)


def _both(function, x, **arguments):
    """Result and gradient, for a gradient that is the same number in every dtype."""
    x = x.detach().requires_grad_()
    out = function(x, **arguments)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    grad = torch.empty_like(out).copy_(grad)
    return out.detach(), torch.autograd.grad(out, x, grad)[0]


def _assert_accurate(x, **arguments):
    with use_backend(Backend.NATIVE), poisoned_empty():
        ours = _both(upsample_bilinear, x, **arguments)
    peers = _both(SAMPLES.peer, x, **arguments)
    truths = _both(SAMPLES.peer, x.double().cpu(), **arguments)
    for what, our, peer, truth in zip(("result", "gradient"), ours, peers, truths, strict=True):
        # In float64 the truth is no better than we are.
        floor = 4 * torch.finfo(torch.float64).eps * truth.norm() / truth.numel() ** 0.5
        if x.dtype is torch.float64:
            assert (our.cpu() - truth).norm() / truth.numel() ** 0.5 <= floor
        else:
            assert_as_accurate(our.cpu(), peer.cpu(), truth, what=what)


@each_dtype
@pytest.mark.parametrize("sample", filled, ids=lambda s: s.why)
def test_as_accurate_as_pytorch(sample, dtype):
    _assert_accurate(**sample.inputs(Maker(dtype, "cuda")))


@each_layout
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=("float32", "bfloat16"))
@pytest.mark.parametrize(
    ("shape", "size", "align_corners"),
    [
        ((4, 256, 33, 33), (129, 129), True),
        ((2, 19, 97, 97), (769, 769), True),
        ((2, 150, 128, 128), (512, 512), False),
        ((4, 512, 1, 1), (90, 90), False),
        ((4, 64, 6, 6), (90, 90), False),
        ((2, 21, 300, 200), (64, 64), False),
    ],
    ids=str,
)
def test_as_accurate_as_pytorch_on_real_sizes(shape, size, align_corners, dtype, layout):
    x = Maker(dtype, "cuda").tensor(*shape).contiguous(memory_format=layout)
    _assert_accurate(x, size=size, align_corners=align_corners)


@each_layout
def test_same_bits_twice_under_deterministic_algorithms(layout):
    x = Maker(torch.bfloat16, "cuda").tensor(4, 64, 65, 65).contiguous(memory_format=layout)
    torch.use_deterministic_algorithms(True)
    try:
        first = _both(upsample_bilinear, x, size=(257, 257), align_corners=True)
        for _ in range(5):
            again = _both(upsample_bilinear, x, size=(257, 257), align_corners=True)
            assert all(map(torch.equal, first, again))
    finally:
        torch.use_deterministic_algorithms(False)


def test_in_a_cuda_graph():
    x = torch.randn(2, 16, 20, 20, device="cuda", requires_grad=True)
    grad = torch.randn(2, 16, 80, 80, device="cuda")

    def step():
        out = upsample_bilinear(x, 80)
        return out.detach(), torch.autograd.grad(out, x, grad)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
        grad.copy_(torch.randn_like(grad))
    graph.replay()
    assert all(map(torch.equal, captured, step()))


def test_on_the_current_stream():
    """A long kernel goes first on another stream: the op must wait for it, and nothing else."""
    stream = torch.cuda.Stream()
    x = torch.zeros(1, 8, 64, 64, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        x.fill_(3.0)
        out = upsample_bilinear(x, 128)
    stream.synchronize()
    assert (out == 3.0).all()


@each_layout
def test_more_than_2_to_the_31_elements(layout):
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    shape, size = (3, 180, 512, 512), (2048, 2048)
    x = torch.randn(shape, device="cuda", dtype=torch.bfloat16).contiguous(memory_format=layout)
    with torch.no_grad():
        out = upsample_bilinear(x, size)
    assert out.numel() > 2**31
    last = F.interpolate(x[-1:, -1:].float(), size, mode="bilinear")
    torch.testing.assert_close(out[-1:, -1:].float(), last, rtol=2**-8, atol=2**-8)
    grad_x = torch.ops.fastseg.upsample_bilinear_backward(out, list(shape[2:]), False, None, None)
    part = x[-1:, -1:].double().requires_grad_()
    (expected,) = torch.autograd.grad(
        F.interpolate(part, size, mode="bilinear"), part, out[-1:, -1:].double()
    )
    torch.testing.assert_close(grad_x[-1:, -1:].double(), expected, rtol=2**-8, atol=2**-6)


def test_autocast_keeps_the_dtype():
    x = torch.randn(1, 8, 9, 9, device="cuda", dtype=torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        assert upsample_bilinear(x, 33).dtype is torch.bfloat16
        assert upsample_bilinear(x.float(), 33).dtype is torch.float32


@each_layout
def test_compiled(layout):
    x = torch.randn(2, 16, 17, 19, device="cuda").contiguous(memory_format=layout)

    @torch.compile(fullgraph=True)
    def function(x):
        return upsample_bilinear(x.relu(), (65, 70), align_corners=True) * 2

    def eager(x, **_):
        return upsample_bilinear(x.relu(), (65, 70), align_corners=True) * 2

    for ours, expected in zip(_both(lambda x: function(x), x), _both(eager, x), strict=True):
        assert ours.stride() == expected.stride()
        torch.testing.assert_close(ours, expected)
