"""What is special about pyramid_pool; tests/ops/test_all_ops.py does the rest from samples.py."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg import Backend, pyramid_pool
from fastseg.testing import Maker, assert_as_accurate, poisoned_empty

BACKENDS = [Backend.NATIVE, Backend.REFERENCE]
LAYOUTS = ["contiguous", "channels_last"]


def pooled_by_loops(x: torch.Tensor, bins: tuple[int, ...]) -> torch.Tensor:
    n, channels, height, width = x.shape
    out = torch.zeros(n, channels, sum(b * b for b in bins), dtype=torch.float64)
    cell = 0
    for b in bins:
        for i in range(b):
            top, bottom = math.floor(i * height / b), math.ceil((i + 1) * height / b)
            for j in range(b):
                left, right = math.floor(j * width / b), math.ceil((j + 1) * width / b)
                out[:, :, cell] = x[:, :, top:bottom, left:right].double().mean((2, 3))
                cell += 1
    return out


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(6, 12), (7, 11), (13, 8), (6, 6)])
def test_cells_are_the_means_of_their_windows(size, backend):
    x = Maker(torch.float64).map(2, 3, *size)
    with fastseg.use_backend(backend):
        out = pyramid_pool(x, (1, 2, 3, 6))
    torch.testing.assert_close(out, pooled_by_loops(x, (1, 2, 3, 6)), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_overlapping_windows_by_hand(backend):
    x = torch.arange(1.0, 26.0).reshape(1, 1, 5, 5)
    with fastseg.use_backend(backend):
        out = pyramid_pool(x, (2, 5))
    # Rows and columns 0-2 and 2-4: the middle ones belong to both cells.
    assert out[0, 0, :4].tolist() == [7.0, 9.0, 17.0, 19.0]
    assert out[0, 0, 4:].tolist() == x.flatten().tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradient_of_overlapping_windows_by_hand(backend, layout):
    x = Maker().map(1, 2, 3, 3, layout=layout).requires_grad_()
    with fastseg.use_backend(backend):
        (grad,) = torch.autograd.grad(pyramid_pool(x, (2,)).sum(), x)
    # Four windows of 2 x 2 pixels: a corner is in one, an edge in two, the centre in all.
    expected = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])
    assert torch.equal(grad, expected.expand(1, 2, 3, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("height", range(1, 14))
def test_every_grid_of_every_small_height(height, layout):
    bins = tuple(range(1, height + 1))
    x = Maker(seed=height).map(2, 9, height, 17, layout=layout).requires_grad_()
    out = pyramid_pool(x, bins)
    g = torch.randn_like(out)
    peer = torch.cat([F.adaptive_avg_pool2d(x, b).flatten(2) for b in bins], 2)
    torch.testing.assert_close(out, peer)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, g)[0] for y in (out, peer)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 11, 21, 26), (1, 3, 300, 301), (1, 130, 40, 41)])
def test_same_bits_at_any_thread_count(shape, layout):
    x = Maker().map(*shape, layout=layout).requires_grad_()
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            with poisoned_empty():
                out = pyramid_pool(x, (1, 2, 3, 6))
                grad = torch.autograd.grad(out, x, out.detach())[0]
            results.append((out, grad))
    finally:
        torch.set_num_threads(threads)
    for out, grad in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(grad, results[0][1])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, backend):
    x = Maker().map(2, 5, 6, 7, layout=layout).requires_grad_()
    with fastseg.use_backend(backend):
        out = pyramid_pool(x, (1, 2))
        strides = (25, 1, 5) if layout == "channels_last" else (25, 5, 1)
        assert out.stride() == strides
        # The layout of the incoming gradient plays no role.
        for g in (torch.randn(2, 5, 5), torch.randn(5, 5, 2).permute(2, 0, 1)):
            (grad,) = torch.autograd.grad(out, x, g, retain_graph=True)
            assert grad.stride() == x.stride()


def test_a_slice_is_read_in_place_of_its_values():
    whole = Maker().map(2, 12, 20, 22, layout="channels_last")
    part = whole[:, 2:9, 3:17, 5:]
    assert torch.equal(pyramid_pool(part, (1, 5)), pyramid_pool(part.clone(), (1, 5)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nan_stays_in_the_cells_that_cover_it(layout):
    x = Maker().map(3, 70, 9, 11, layout=layout)
    x[1, 5, 8, 10] = math.nan
    x[2, 7, 0, 0] = math.inf
    expected = torch.cat([F.adaptive_avg_pool2d(x, b).flatten(2) for b in (1, 2, 3)], 2)
    out = pyramid_pool(x, (1, 2, 3))
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.isinf(), expected.isinf())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradient_is_rounded_once(dtype):
    x = Maker(dtype).map(1, 4, 25, 25).requires_grad_()
    bins = (1, 2, 3, 6, 5, 7)
    g = Maker(dtype, seed=1).tensor(1, 4, sum(b * b for b in bins))
    (grad,) = torch.autograd.grad(pyramid_pool(x, bins), x, g)
    exact = x.detach().double().requires_grad_()
    peer = torch.cat([F.adaptive_avg_pool2d(exact, b).flatten(2) for b in bins], 2)
    (truth,) = torch.autograd.grad(peer, exact, g.double())
    assert_as_accurate(grad, truth.to(dtype), truth, ratio=1.001)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_double_backward_is_the_op_again(layout):
    x = Maker(torch.float64).map(2, 3, 5, 7, layout=layout).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: pyramid_pool(x, (1, 3)).square(), (x,))
    g = Maker(torch.float64, seed=1).tensor(2, 3, 10).requires_grad_()
    (grad,) = torch.autograd.grad(pyramid_pool(x, (1, 3)), x, g, create_graph=True)
    y = Maker(torch.float64, seed=2).map(2, 3, 5, 7, layout=layout)
    (back,) = torch.autograd.grad(grad, g, y)
    torch.testing.assert_close(back, pyramid_pool(y, (1, 3)))


def test_one_graph_for_all_sizes():
    pool = torch.compile(lambda x: pyramid_pool(x, [1, 3]), fullgraph=True, dynamic=True)
    for size in ((5, 6), (9, 4)):
        x = Maker().map(1, 2, *size)
        assert torch.equal(pool(x), pyramid_pool(x, (1, 3)))


def test_backward_op_checks_its_arguments():
    backward = torch.ops.fastseg.pyramid_pool_backward
    with pytest.raises(ValueError, match=r"grad_out has shape .* expected \[N, C >= 1, 5\]"):
        backward(torch.ones(1, 2, 4), [4, 4], [1, 2], False)
    with pytest.raises(ValueError, match="bins is"):
        backward(torch.ones(1, 2, 5), [4, 1], [1, 2], False)
    with pytest.raises(TypeError, match="grad_out has dtype"):
        backward(torch.ones(1, 2, 5, dtype=torch.int32), [4, 4], [1, 2], False)
