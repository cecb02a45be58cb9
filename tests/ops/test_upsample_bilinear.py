"""What is special about upsample_bilinear; the rest is in the tests of all ops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from fastseg import Backend, upsample_bilinear, use_backend
from fastseg.testing import relative_error

BACKENDS = (Backend.NATIVE, Backend.REFERENCE)
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.value)


def _expected(x, size, align_corners, factors=(None, None)):
    """The definition, written as loops over pixels."""
    axes = []
    for in_size, out_size, factor in zip(x.shape[2:], size, factors, strict=True):
        axis = []
        for i in range(out_size):
            if align_corners:
                position = i * (in_size - 1) / (out_size - 1) if out_size > 1 else 0.0
            else:
                scale = 1 / factor if factor is not None else in_size / out_size
                position = max((i + 0.5) * scale - 0.5, 0.0)
            low = min(math.floor(position), in_size - 1)
            high = min(low + 1, in_size - 1)
            axis.append((low, high, min(position - low, 1.0)))
        axes.append(axis)
    out = x.new_zeros(*x.shape[:2], *size)
    for i, (top, bottom, v) in enumerate(axes[0]):
        for j, (left, right, u) in enumerate(axes[1]):
            above = x[:, :, top, left] * (1 - u) + x[:, :, top, right] * u
            below = x[:, :, bottom, left] * (1 - u) + x[:, :, bottom, right] * u
            out[:, :, i, j] = above * (1 - v) + below * v
    return out


@each_backend
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(9, 7), (8, 14), (3, 2), (1, 1), (4, 21), (17, 1)], ids=str)
def test_source_index_rule(backend, size, align_corners):
    x = torch.randn(2, 3, 4, 7, dtype=torch.float64)
    with use_backend(backend):
        result = upsample_bilinear(x, size, align_corners=align_corners)
    torch.testing.assert_close(result, _expected(x, size, align_corners))


@each_backend
def test_source_index_rule_with_factors(backend):
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    with use_backend(backend):
        result = upsample_bilinear(x, scale_factor=(1.7, 0.6))
    assert result.shape[2:] == (8, 3)
    torch.testing.assert_close(result, _expected(x, (8, 3), False, (1.7, 0.6)))


def _factors():
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        in_size = int(torch.randint(1, 40, (), generator=generator))
        yield in_size, float(torch.rand((), generator=generator) * 4 + 1.001 / in_size)
    # Factors whose product with the size falls just below or just above a whole number.
    for in_size, out_size in itertools.product((3, 7, 10, 21, 33), (1, 2, 10, 29, 64)):
        for step in (-1, 0, 1):
            factor = out_size / in_size
            yield in_size, math.nextafter(factor, math.inf * step) if step else factor
    yield from ((10, 1.1), (10, 0.1 + 0.2), (100, 0.29), (3, 1 / 3), (49, 1 / 49), (5, 1e-1 * 2))


def test_sizes_and_values_from_scale_factors():
    for in_size, factor in _factors():
        if math.floor(in_size * factor) < 1:
            continue
        x = torch.randn(1, 2, 2, in_size)
        for align_corners in (False, True):
            options = {"scale_factor": (1.0, factor), "align_corners": align_corners}
            expected = F.interpolate(x, mode="bilinear", **options)
            truth = F.interpolate(x.double(), mode="bilinear", **options)
            result = upsample_bilinear(x, **options)
            assert result.shape == expected.shape, f"{in_size} * {factor!r}"
            error, allowed = relative_error(result, truth), 2 * relative_error(expected, truth)
            assert error <= max(allowed, 2e-7), f"{in_size} * {factor!r}: {error}"


@each_backend
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(50, 61), (7, 5), (1, 90)], ids=str)
def test_constants_stay(backend, size, align_corners):
    x = torch.full((1, 2, 13, 17), 0.7)
    with use_backend(backend):
        result = upsample_bilinear(x, size, align_corners=align_corners)
    torch.testing.assert_close(result, torch.full_like(result, 0.7), rtol=3e-7, atol=0)


@each_backend
def test_affine_maps_stay_affine(backend):
    """With aligned corners the resize of a + b i + c j is exact: the grid points of the result are
    known."""
    i, j = torch.arange(9.0).double()[:, None], torch.arange(12.0).double()
    x = (3 + 2 * i - 5 * j)[None, None]
    with use_backend(backend):
        result = upsample_bilinear(x, (33, 40), align_corners=True)
    i = torch.arange(33.0).double()[:, None] * 8 / 32
    j = torch.arange(40.0).double() * 11 / 39
    torch.testing.assert_close(result[0, 0], 3 + 2 * i - 5 * j)


@each_backend
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [(24, 24), (13, 9), (3, 4), (6, 6), (6, 11), (9, 6)], ids=str)
def test_infinities_and_nans_spread_as_in_torch(backend, layout, size):
    x = torch.randn(1, 20, 6, 6).contiguous(memory_format=layout)
    x[0, 3, 2, 2], x[0, 4, 0, 5], x[0, 5, 5, 0] = math.nan, math.inf, -math.inf
    with use_backend(backend):
        result = upsample_bilinear(x, size)
    expected = F.interpolate(x, size, mode="bilinear")
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_small_maps_have_the_bits_of_the_op(layout):
    """Without a gradient the native core is called at once: the same values and memory format."""
    for shape, size in (
        ((1, 16, 10, 10), (20, 20)),
        ((2, 5, 1, 7), (3, 4)),
        ((1, 1, 3, 3), (9, 7)),
    ):
        x = torch.randn(shape).contiguous(memory_format=layout)
        for align_corners in (False, True):
            recorded = upsample_bilinear(
                x.clone().requires_grad_(), size, align_corners=align_corners
            )
            quick = upsample_bilinear(x, size, align_corners=align_corners)
            assert torch.equal(quick, recorded.detach())
            assert quick.stride() == recorded.stride()
            sliced = torch.cat([x, x], 3)[..., : x.shape[3]]
            assert torch.equal(upsample_bilinear(sliced, size, align_corners=align_corners), quick)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_out(layout):
    x = torch.randn(2, 5, 6, 7).contiguous(memory_format=layout)
    out = torch.full((2, 5, 13, 20), math.nan).contiguous(memory_format=layout)
    assert upsample_bilinear(x, (13, 20), out=out) is out
    assert torch.equal(out, upsample_bilinear(x, (13, 20)))


def test_out_in_a_compiled_graph():
    def function(x, out):
        upsample_bilinear(x, (5, 6), out=out)
        return out + 1

    torch._dynamo.reset()
    x, out = torch.randn(1, 2, 3, 4), torch.empty(1, 2, 5, 6)
    result = torch.compile(function, fullgraph=True, backend="aot_eager")(x, out)
    assert torch.equal(out, upsample_bilinear(x, (5, 6)))
    assert torch.equal(result, out + 1)


@pytest.mark.parametrize(
    ("out", "error", "match"),
    [
        (torch.empty(1, 2, 5, 5), ValueError, r"out has shape \(1, 2, 5, 5\), expected \(1, 2, 5"),
        (torch.empty(1, 2, 5, 6).half(), TypeError, "out has dtype torch.float16"),
        (torch.empty(1, 2, 6, 5).mT, ValueError, "out has strides"),
        (torch.empty(1, 2, 5, 6, device="meta"), ValueError, "out is on meta but x is on cpu"),
        (torch.empty(1, 2, 5, 6, requires_grad=True), ValueError, "no_grad"),
    ],
    ids=["shape", "dtype", "strides", "device", "gradient"],
)
def test_unfit_out(out, error, match):
    with pytest.raises(error, match=match):
        upsample_bilinear(torch.randn(1, 2, 3, 4), (5, 6), out=out)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("scale", [8, 16])
def test_backward_in_bfloat16_is_rounded_once(scale, layout, device):
    """Gathered in float32. (Torch adds scale^2 numbers up in bfloat16 on CUDA: 1.6% off.)"""
    size = (16 * scale, 16 * scale)
    grad = torch.randn(1, 4, *size, device=device).bfloat16().contiguous(memory_format=layout)

    def gradient(function, dtype):
        x = torch.zeros(1, 4, 16, 16, dtype=dtype, device=device, requires_grad=True)
        return torch.autograd.grad(function(x), x, grad.to(dtype))[0]

    def peer(x):
        return F.interpolate(x, size, mode="bilinear")

    truth = gradient(peer, torch.float64)
    error = relative_error(gradient(lambda x: upsample_bilinear(x, size), torch.bfloat16), truth)
    assert error <= 1.01 * relative_error(truth.bfloat16(), truth)
    peer_error = relative_error(gradient(peer, torch.bfloat16), truth)
    assert error < peer_error / 3 if device == "cuda" else error <= 1.01 * peer_error


def test_a_result_too_large_to_allocate_is_an_error():
    with pytest.raises(MemoryError, match="upsample_bilinear of x"):
        upsample_bilinear(torch.zeros(1, 1, 2, 2), (2**31, 2**31))
