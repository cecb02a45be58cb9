"""SegFormer's folded layers against the layers as written."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
import torch.nn.functional as F

from fastseg.nn.mlp_head import mlp_fuse

_LEVELS = ((8, 16, 24), (12, 8, 12), (20, 4, 6), (32, 2, 3))
_HIDDEN, _OUT = 24, 16


def _inputs(dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """Maps, weights, biases, and the weight and bias of the fusing layer: equal in every dtype."""
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int, scale: float = 1.0) -> torch.Tensor:
        x = torch.randn(shape, generator=generator) * scale
        return x.bfloat16().to(dtype).requires_grad_()

    maps = [make(2, *level) for level in _LEVELS]
    weights = [make(_HIDDEN, level[0], scale=level[0] ** -0.5) for level in _LEVELS]
    biases = [make(_HIDDEN) for _ in _LEVELS]
    fuse = [make(_OUT, 4 * _HIDDEN, 1, 1, scale=(4 * _HIDDEN) ** -0.5), make(_OUT)]
    return [maps, weights, biases, fuse]


def _as_written(inputs: list[list[torch.Tensor]]) -> torch.Tensor:
    maps, weights, biases, fuse = inputs
    resized = [
        F.interpolate(F.conv2d(x, w[:, :, None, None], b), size=(16, 24), mode="bilinear")
        for x, w, b in zip(maps, weights, biases, strict=True)
    ]
    return F.conv2d(torch.cat(resized, 1), *fuse)


def _folded(inputs: list[list[torch.Tensor]]) -> torch.Tensor:
    maps, weights, biases, fuse = inputs
    return mlp_fuse(maps, weights, biases, *fuse)


def _results(function, dtype: torch.dtype) -> list[torch.Tensor]:
    inputs = _inputs(dtype)
    out = function(inputs)
    seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    gradients = torch.autograd.grad(out, list(chain(*inputs)), seed.to(dtype))
    return [out, *gradients]


def _errors(results: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    return [
        float((x.detach().double() - y.detach()).norm() / y.detach().norm())
        for x, y in zip(results, exact, strict=True)
    ]


def test_outputs_and_gradients_in_float64():
    exact = _results(_as_written, torch.float64)
    assert max(_errors(_results(_folded, torch.float64), exact)) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_error_is_at_most_twice_that_of_the_layers_as_written(dtype):
    exact = _results(_as_written, torch.float64)
    ours = _errors(_results(_folded, dtype), exact)
    theirs = _errors(_results(_as_written, dtype), exact)
    for i, (error, allowed) in enumerate(zip(ours, theirs, strict=True)):
        assert error <= 2 * allowed, f"tensor {i}: {error} and as written {allowed}"


def test_autocast_error_is_at_most_twice_that_of_the_layers_as_written():
    exact = _as_written(_inputs(torch.float64))
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = _folded(_inputs(torch.float32)), _as_written(_inputs(torch.float32))
    assert ours.dtype is torch.bfloat16
    assert _errors([ours], [exact])[0] <= 2 * _errors([theirs], [exact])[0]


def test_channels_last_is_kept():
    maps, *others = _inputs(torch.float32)
    maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    assert _folded([maps, *others]).is_contiguous(memory_format=torch.channels_last)


def test_without_biases():
    maps, weights, _, fuse = _inputs(torch.float64)
    zeros = [torch.zeros(_HIDDEN, dtype=torch.float64)] * 4
    out = mlp_fuse(maps, weights, [None] * 4, fuse[0])
    expected = _as_written([maps, weights, zeros, [fuse[0], None]])
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)


def test_compiles_in_one_graph():
    inputs = _inputs(torch.float32)
    compiled = torch.compile(_folded, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(inputs), _folded(inputs))


def test_errors_name_the_argument():
    maps, weights, biases, fuse = _inputs(torch.float32)
    with pytest.raises(ValueError, match="3 weights and 4 biases, expected 4"):
        mlp_fuse(maps, weights[:3], biases, *fuse)
    with pytest.raises(ValueError, match="fuse_weight has shape"):
        mlp_fuse(maps, weights, biases, fuse[0][:, 1:])
