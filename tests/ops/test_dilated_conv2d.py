"""What is special to dilated_conv2d; the generic op tests do the rest."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import fastseg
from fastseg import Backend, dilated_conv2d, use_backend
from fastseg.testing import assert_as_accurate, poisoned_empty

BACKENDS = (Backend.NATIVE, Backend.TORCH, Backend.REFERENCE)


def by_loops(x, weight, grad_out, stride, padding, dilation):
    """Depthwise result and gradients to x and weight, from the definition."""
    out, grad_x, grad_weight = grad_out * 0, x * 0, weight * 0
    for n, c, y0, x0 in itertools.product(*(range(s) for s in grad_out.shape)):
        for i, j in itertools.product(range(weight.shape[2]), range(weight.shape[3])):
            y = y0 * stride[0] - padding[0] + i * dilation[0]
            z = x0 * stride[1] - padding[1] + j * dilation[1]
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                out[n, c, y0, x0] += weight[c, 0, i, j] * x[n, c, y, z]
                grad_x[n, c, y, z] += weight[c, 0, i, j] * grad_out[n, c, y0, x0]
                grad_weight[c, 0, i, j] += x[n, c, y, z] * grad_out[n, c, y0, x0]
    return out, grad_x, grad_weight


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_equals_the_definition_written_as_loops(backend, layout):
    stride, padding, dilation = (2, 1), (3, 2), (3, 2)
    x = torch.randint(-4, 5, (2, 3, 5, 4), dtype=torch.float64).contiguous(memory_format=layout)
    weight = torch.randint(-4, 5, (3, 1, 2, 3), dtype=torch.float64)
    x.requires_grad_(), weight.requires_grad_()
    with use_backend(backend):
        out = dilated_conv2d(x, weight, None, stride, padding, dilation, groups=3)
        grad_out = torch.randint_like(out, -4, 5)
        grads = torch.autograd.grad(out, (x, weight), grad_out)
    expected = by_loops(x.detach(), weight.detach(), grad_out, stride, padding, dilation)
    for ours, loops in zip((out, *grads), expected, strict=True):
        assert torch.equal(ours, loops)


def test_one_impulse_shows_where_the_taps_are():
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 4] = 1.0
    weight = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    out = dilated_conv2d(x, weight, padding=3, dilation=3)
    expected = torch.zeros(9, 9)
    expected[1::3, 1::3] = weight[0, 0].flip(0, 1)
    assert torch.equal(out[0, 0], expected)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
def test_gradients_are_the_same_bits_at_any_thread_count(layout):
    x = torch.randn(2, 20, 70, 9).contiguous(memory_format=layout)
    weight, bias = torch.randn(20, 1, 3, 3), torch.randn(20)
    grad_out = torch.randn_like(x)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            inputs = [t.clone(memory_format=torch.preserve_format) for t in (x, weight, bias)]
            inputs = [t.requires_grad_() for t in inputs]
            out = dilated_conv2d(*inputs, padding=2, dilation=2, groups=20)
            results.append((out, *torch.autograd.grad(out, inputs, grad_out)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


def test_a_gradient_does_not_depend_on_which_others_are_asked_for():
    x, weight = torch.randn(2, 11, 40, 9), torch.randn(11, 1, 3, 3)
    arguments = ([1, 1], [3, 3], [3, 3], 11)
    grad_out = torch.randn_like(x)
    backward = torch.ops.fastseg.dilated_conv2d_backward
    every = backward(grad_out, x, weight, *arguments, [True, True, True])
    for mask in itertools.product((False, True), repeat=3):
        with poisoned_empty():
            some = backward(grad_out, x, weight, *arguments, list(mask))
        for gradient, whole, wanted in zip(some, every, mask, strict=True):
            assert torch.equal(gradient, whole) if wanted else gradient.shape == (0,)


@pytest.mark.parametrize("layout", (torch.contiguous_format, torch.channels_last))
@pytest.mark.parametrize("groups", (1, 16), ids=("dense", "depthwise"))
def test_result_and_gradient_keep_the_layout_whatever_the_weight_has(layout, groups):
    x = torch.randn(2, 16, 9, 9).contiguous(memory_format=layout).requires_grad_()
    for weight_layout in (torch.contiguous_format, torch.channels_last):
        weight = torch.randn(16, 16 // groups, 3, 3).contiguous(memory_format=weight_layout)
        out = dilated_conv2d(x, weight, padding=1, groups=groups)
        (grad_x,) = torch.autograd.grad(out.sum(), x)
        assert out.is_contiguous(memory_format=layout)
        assert grad_x.is_contiguous(memory_format=layout)


def test_infinite_weights_do_not_meet_the_padding():
    weight = torch.ones(8, 1, 3, 3)
    weight[:, :, 0, 0] = float("inf")
    out = dilated_conv2d(torch.ones(1, 8, 5, 5), weight, padding=2, dilation=2, groups=8)
    assert torch.isfinite(out[:, :, :2]).all()
    assert torch.isfinite(out[:, :, :, :2]).all()
    assert torch.isinf(out[:, :, 2:, 2:]).all()


@pytest.mark.parametrize("groups", (1, 6), ids=("dense", "depthwise"))
def test_gradients_of_gradients(groups):
    x = torch.randn(2, 6, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 6 // groups, 3, 2, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def run(x, weight, bias):
        return dilated_conv2d(x, weight, bias, (2, 1), (2, 1), (2, 1), groups)

    assert torch.autograd.gradcheck(run, (x, weight, bias))
    assert torch.autograd.gradgradcheck(run, (x, weight, bias))


@pytest.mark.parametrize("groups", (1, 8), ids=("dense", "depthwise"))
def test_autocast_runs_in_the_lower_precision_with_float32_parameters(groups):
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    weight = torch.nn.Parameter(torch.randn(8, 8 // groups, 3, 3))
    bias = torch.nn.Parameter(torch.randn(8))
    with torch.autocast("cpu", torch.bfloat16):
        out = dilated_conv2d(x, weight, bias, 1, 2, 2, groups)
        expected = F.conv2d(x, weight, bias, 1, 2, 2, groups)
    assert out.dtype is torch.bfloat16
    inputs = (x, weight, bias)
    grads = torch.autograd.grad(out.float().square().sum(), inputs)
    peers = torch.autograd.grad(expected.float().square().sum(), inputs)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    truth = F.conv2d(*doubles, 1, 2, 2, groups)
    truths = torch.autograd.grad(truth.square().sum(), doubles)
    for ours, peer, exact in zip(grads, peers, truths, strict=True):
        assert ours.dtype is torch.float32
        assert_as_accurate(ours, peer, exact)


def test_both_forms_of_same_padding():
    x, weight = torch.randn(1, 8, 9, 10), torch.randn(8, 1, 4, 3)
    for dilation in (1, 2, 3):
        ours = dilated_conv2d(x, weight, padding="same", dilation=dilation, groups=8)
        peer = F.conv2d(x, weight, padding="same", dilation=dilation, groups=8)
        assert ours.shape == x.shape
        torch.testing.assert_close(ours, peer)


def test_native_says_why_it_leaves_a_dense_convolution_to_torch():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 4, 3, 3)
    with use_backend(Backend.NATIVE), pytest.raises(fastseg.BackendUnavailable, match="depthwise"):
        dilated_conv2d(x, weight)


def test_compiled_without_graph_breaks():
    x = torch.randn(1, 8, 9, 9, requires_grad=True)
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)

    def loss(x, weight):
        return dilated_conv2d(x, weight, None, 1, "same", 2, 8).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(x, weight), (x, weight))
    eager = torch.autograd.grad(loss(x, weight), (x, weight))
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)
