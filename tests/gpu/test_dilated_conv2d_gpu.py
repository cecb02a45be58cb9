"""Dense dilated_conv2d through Triton on a GPU: every tile, bits, graphs, streams, sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg import Backend, BackendUnavailable, dilated_conv2d, use_backend
from fastseg.ops.dilated_conv2d import conv_branches, triton_config
from fastseg.ops.dilated_conv2d.triton_tiles import Taps
from fastseg.testing import assert_as_accurate, poisoned_empty

pytest.importorskip("triton")
pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
each_rate = pytest.mark.parametrize("rate", (1, 4, 18))


@pytest.fixture(params=(False, True), ids=("ieee", "tf32"))
def tf32(request, monkeypatch) -> bool:
    """torch's setting, which float32 follows."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param)
    return request.param


def random(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(shape, device="cuda", dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def has_tma() -> bool:
    return torch.cuda.get_device_capability()[0] >= 9


@each_dtype
@each_rate
def test_each_tile_of_the_convolution(dtype, rate, tf32):
    """More steps of channels than the pipeline holds, and rests in every direction."""
    from fastseg.ops.dilated_conv2d.triton_launch import convolve

    x = random(9, 328, 33, 35, dtype=dtype)
    weight = random(264, 328, 3, 3, dtype=dtype)
    taps = Taps.of_forward((3, 3), (rate, rate), (rate, rate))
    peer = F.conv2d(x, weight, padding=rate, dilation=rate)
    truth = F.conv2d(x.double(), weight.double(), padding=rate, dilation=rate)
    how = triton_config.precision(dtype)
    for config in triton_config.conv_configs(dtype, how, has_tma()):
        out = torch.full_like(peer, float("nan"))
        convolve(x, [weight], (taps,), out, config=config)
        assert_as_accurate(out, peer, truth, what=str(config))


@each_dtype
@each_rate
def test_each_tile_of_the_weight_gradient(dtype, rate, tf32):
    from fastseg.ops.dilated_conv2d.triton_launch import weight_gradient

    x, grad = random(9, 264, 33, 35, dtype=dtype), random(9, 136, 33, 35, dtype=dtype)
    shape, geometry = (136, 264, 3, 3), {"padding": rate, "dilation": rate}
    peer = torch.nn.grad.conv2d_weight(x, shape, grad, **geometry)
    truth = torch.nn.grad.conv2d_weight(x.double(), shape, grad.double(), **geometry)
    taps = Taps.of_forward((3, 3), (rate, rate), (rate, rate))
    how = triton_config.precision(dtype)
    for config in triton_config.gradient_configs(dtype, how, has_tma()):
        with poisoned_empty():
            ours = weight_gradient(grad, x, (3, 3), taps, config=config)
        assert_as_accurate(ours, peer, truth, what=str(config))


def step(x, weight, bias, backend, **geometry):
    """Result and gradients."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    with use_backend(backend):
        out = dilated_conv2d(*leaves, **geometry)
        grad = torch.linspace(-1, 1, out.numel(), device="cuda").to(out.dtype).view(out.shape)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]


def case(dtype=torch.bfloat16, images=2):
    x, weight = random(images, 64, 33, 33, dtype=dtype), random(80, 64, 3, 3, dtype=dtype)
    return x, weight, torch.randn(80, device="cuda").to(dtype)


@each_dtype
@pytest.mark.parametrize(
    "geometry",
    (
        {"padding": 6, "dilation": 6},
        {"padding": (3, 0), "dilation": (2, 5)},
        {"padding": 20, "dilation": 18},
    ),
)
def test_result_and_gradients(dtype, geometry, tf32):
    inputs = case(dtype)
    with poisoned_empty():
        ours = step(*inputs, Backend.TRITON, **geometry)
    peers = step(*inputs, Backend.TORCH, **geometry)
    truths = step(*(t.double() for t in inputs), Backend.TORCH, **geometry)
    for result, peer, truth in zip(ours, peers, truths, strict=True):
        assert_as_accurate(result, peer, truth)


@each_dtype
@pytest.mark.parametrize("images", (1, 8))
def test_branches_of_an_aspp(dtype, images, tf32):
    x = random(images, 320, 33, 33, dtype=dtype)
    kernels = ((1, 1), (3, 3), (3, 3), (3, 3))
    weights = [random(256, 320, *k, dtype=dtype) * 0.02 for k in kernels]
    scale, shift = (torch.rand(1024, device="cuda") + 0.5 for _ in range(2))
    results = []
    for backend, cast in ((Backend.TRITON, dtype), (Backend.TORCH, dtype), (None, torch.float64)):
        with use_backend(backend), poisoned_empty():
            args = (x.to(cast), [w.to(cast) for w in weights], (1, 6, 12, 18))
            results.append(conv_branches(*args, scale, shift, 6.0))
    assert_as_accurate(*results)


def test_the_same_bits_every_time(deterministic):
    inputs = case(images=9)
    first, second = (step(*inputs, Backend.TRITON, padding=6, dilation=6) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_in_a_graph_and_after_its_tables_left_the_cache(captured):
    from fastseg.ops.dilated_conv2d import triton_tables

    x, weight, _ = case()
    grad = torch.randn_like(dilated_conv2d(x, weight, padding=6, dilation=6))
    geometry = ([1, 1], [6, 6], [6, 6], 1)

    def both():
        with use_backend(Backend.TRITON):
            out = torch.ops.fastseg.dilated_conv2d(x, weight, None, *geometry)
            backward = torch.ops.fastseg.dilated_conv2d_backward
            return [out, *backward(grad, x, weight, *geometry, [True, True, False])[:2]]

    graph, results = captured(both)
    triton_tables.conv_table.cache_clear()
    triton_tables.gradient_table.cache_clear()
    garbage = [torch.full((n,), -1, dtype=torch.int32, device="cuda") for n in range(64, 8192, 64)]
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert all(map(torch.equal, results, both()))
    del garbage


def test_on_the_current_stream(on_a_busy_stream):
    inputs = case()
    geometry = {"padding": 6, "dilation": 6}
    expected = step(*inputs, Backend.TRITON, **geometry)
    late = [torch.zeros_like(x) for x in inputs]
    with on_a_busy_stream():
        for x, y in zip(late, inputs, strict=True):
            x.copy_(y)
        ours = step(*late, Backend.TRITON, **geometry)
    assert all(map(torch.equal, ours, expected))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one():
    inputs, geometry = case(), {"padding": 6, "dilation": 6}
    expected = step(*inputs, Backend.TRITON, **geometry)
    ours = step(*(x.to("cuda:1") for x in inputs), Backend.TRITON, **geometry)
    assert torch.cuda.current_device() == 0
    assert all(x.device.index == 1 for x in ours)
    assert all(map(torch.equal, (x.to("cuda:0") for x in ours), expected))


@pytest.mark.parametrize("backend", (Backend.TRITON, Backend.TORCH))
def test_autocast_runs_in_its_dtype(backend):
    x, weight, bias = case(torch.float32)
    with use_backend(backend):
        half = (t.bfloat16() for t in (x, weight, bias))
        expected = dilated_conv2d(*half, padding=6, dilation=6)
        with torch.autocast("cuda", torch.bfloat16):
            assert torch.equal(dilated_conv2d(x, weight, bias, padding=6, dilation=6), expected)


def test_more_than_2_to_the_31_elements():
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    x = torch.randn(3, 16, 7000, 7000, device="cuda", dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    assert x.numel() > 2**31
    weight = random(16, 16, 3, 3, dtype=torch.bfloat16)
    with use_backend(Backend.TRITON):
        out = dilated_conv2d(x, weight, padding=2, dilation=2)
    part = F.conv2d(x[-1:, :, -64:, -64:].float(), weight.float(), padding=2, dilation=2)
    ours = out[-1:, :, -62:, -62:].float()
    torch.testing.assert_close(ours, part[:, :, 2:, 2:], rtol=2e-2, atol=0.2)


def test_refuses_channels_whose_loads_would_not_be_wide():
    channels, match = (12, "16 bytes") if has_tma() else (24, "multiples of 16")
    x = random(1, channels, 9, 9, dtype=torch.bfloat16)
    weight = random(8, channels, 3, 3, dtype=torch.bfloat16)
    with use_backend(Backend.TRITON), pytest.raises(BackendUnavailable, match=match):
        dilated_conv2d(x, weight)


@each_dtype
def test_maps_at_an_odd_address(dtype):
    """A view that begins between two 16-byte addresses."""
    _, weight, _ = case(dtype)
    flat = torch.randn(2 * 33 * 33 * 64 + 1, device="cuda").to(dtype)
    x = flat[1:].view(2, 33, 33, 64).permute(0, 3, 1, 2)
    with use_backend(Backend.TRITON):
        out = dilated_conv2d(x, weight, padding=6, dilation=6)
        assert torch.equal(out, dilated_conv2d(x.clone(), weight, padding=6, dilation=6))


def test_compiled():
    x, weight, bias = case(torch.float32)

    @torch.compile(fullgraph=True)
    def function(x):
        return dilated_conv2d(x.relu(), weight, bias, 1, 6, 6) * 2

    with use_backend(Backend.TRITON):
        expected = dilated_conv2d(x.relu(), weight, bias, 1, 6, 6) * 2
        torch.testing.assert_close(function(x), expected)
