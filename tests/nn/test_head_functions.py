"""Heads computed at low resolution against the layers as written, with the same weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fastseg import upsample_conv2d
from fastseg.nn import pyramid_conv2d, upsample_separable_conv2d
from fastseg.nn import separable as separable_module
from fastseg.nn.flops import (
    mlp_fuse_flops,
    pyramid_conv2d_flops,
    upsample_conv2d_flops,
    upsample_separable_conv2d_flops,
)
from fastseg.testing import relative_error

Function = Callable[..., torch.Tensor]


def _resized_and_joined(parts: list[torch.Tensor], **options) -> torch.Tensor:
    size = max((p.shape[2:] for p in parts), key=lambda s: s[0] * s[1])
    return torch.cat(
        [p if p.shape[2:] == size else F.interpolate(p, size, **options) for p in parts], 1
    )


def _bilinear(parts: list[torch.Tensor], align_corners: bool) -> torch.Tensor:
    return _resized_and_joined(parts, mode="bilinear", align_corners=align_corners)


@dataclasses.dataclass(frozen=True)
class Head:
    """A function of tensors beside the layers that it replaces.

    Attributes:
        maps: shapes without the batch; the result has the size of the largest.
        weights: shapes.
        ours, plain: functions of the maps and the weights.
    """

    name: str
    maps: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[int, ...], ...]
    ours: Function
    plain: Function

    def inputs(
        self, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format
    ) -> list[torch.Tensor]:
        """Maps and weights that need gradients: the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(0)
        tensors = []
        for shape in (*((2, *m) for m in self.maps), *self.weights):
            is_weight = len(tensors) >= len(self.maps)
            fan_in = torch.Size(shape[1:]).numel() if is_weight and len(shape) == 4 else 1
            x = torch.randn(shape, generator=generator) / fan_in**0.5
            if x.dim() == 4 and not is_weight:
                x = x.contiguous(memory_format=layout)
            tensors.append(x.bfloat16().to(dtype).requires_grad_())
        return tensors

    def results(self, function: Function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The result and the gradients to all inputs."""
        count = len(self.maps)
        out = function(inputs[:count], *inputs[count:])
        seed = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        return [out, *torch.autograd.grad(out, inputs, seed.to(out.dtype))]


PYRAMID = ((24, 13, 11), (8, 1, 1), (8, 2, 2), (8, 3, 3), (8, 6, 6))
HEADS = [
    Head(
        "PSPNet's bottleneck",
        PYRAMID,
        ((12, 56, 3, 3),),
        lambda maps, w: pyramid_conv2d(maps[0], maps[1:], w),
        lambda maps, w: F.conv2d(_bilinear(maps, False), w, padding=1),
    ),
    Head(
        "PSPNet's bottleneck, 1x1, cells first, bias",
        PYRAMID,
        ((12, 56, 1, 1), (12,)),
        lambda maps, *w: pyramid_conv2d(
            maps[0], maps[1:], *w, input_first=False, align_corners=True
        ),
        lambda maps, *w: F.conv2d(_bilinear([*maps[1:], maps[0]], True), *w),
    ),
    Head(
        "UPerNet's fpn_bottleneck",
        ((16, 16, 24), (16, 8, 12), (16, 4, 6), (16, 2, 3)),
        ((16, 64, 3, 3),),
        lambda maps, w: upsample_conv2d(maps, w),
        lambda maps, w: F.conv2d(_bilinear(maps, False), w, padding=1),
    ),
    Head(
        "DeepLabV3+'s decoder, low level first",
        ((6, 17, 21), (32, 5, 6)),
        ((16, 38, 3, 3),),
        lambda maps, w: upsample_conv2d(maps, w),
        lambda maps, w: F.conv2d(_bilinear(maps, False), w, padding=1),
    ),
    Head(
        "DeepLabV3+'s separable decoder",
        ((32, 5, 6), (6, 17, 21)),
        ((38, 1, 3, 3), (48, 38, 1, 1), (48,)),
        lambda maps, *w: upsample_separable_conv2d(maps, *w, align_corners=True),
        lambda maps, d, *p: F.conv2d(F.conv2d(_bilinear(maps, True), d, padding=1, groups=38), *p),
    ),
    Head(
        "UNet's block",
        ((24, 4, 5), (10, 8, 10)),
        ((8, 34, 3, 3),),
        lambda maps, w: upsample_conv2d(maps, w, mode="nearest"),
        lambda maps, w: F.conv2d(_resized_and_joined(maps, mode="nearest"), w, padding=1),
    ),
    Head(
        "UNet's block, bilinear",
        ((40, 4, 5), (6, 8, 10)),
        ((8, 46, 3, 3),),
        lambda maps, w: upsample_conv2d(maps, w),
        lambda maps, w: F.conv2d(_bilinear(maps, False), w, padding=1),
    ),
    Head(
        "ASPP's projection, pooled branch last",
        ((12, 9, 11), (12, 9, 11), (12, 1, 1)),
        ((16, 36, 1, 1),),
        lambda maps, w: upsample_conv2d(maps, w),
        lambda maps, w: F.conv2d(_bilinear(maps, False), w),
    ),
    Head(
        "ASPP's 3x3 bottleneck, pooled branch first",
        ((12, 1, 1), (12, 9, 11), (12, 9, 11)),
        ((16, 36, 3, 3), (16,)),
        lambda maps, *w: upsample_conv2d(maps, *w),
        lambda maps, *w: F.conv2d(_bilinear(maps, False), *w, padding=1),
    ),
]
each_head = pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@each_head
@pytest.mark.parametrize("layout", LAYOUTS, ids=("NCHW", "channels_last"))
def test_result_and_gradients_in_float64(head: Head, layout: torch.memory_format):
    inputs = head.inputs(torch.float64, layout)
    results, expected = head.results(head.ours, inputs), head.results(head.plain, inputs)
    assert max(map(relative_error, results, expected)) <= 1e-12
    assert results[0].is_contiguous(memory_format=layout)


@each_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_is_at_most_twice_that_of_the_layers_as_written(head: Head, dtype: torch.dtype):
    exact = head.results(head.plain, head.inputs(torch.float64))
    inputs = head.inputs(dtype)
    ours = map(relative_error, head.results(head.ours, inputs), exact)
    plain = map(relative_error, head.results(head.plain, inputs), exact)
    for i, (error, allowed) in enumerate(zip(ours, plain, strict=True)):
        assert error <= 2 * allowed, f"tensor {i}: {error:.2e}, as written {allowed:.2e}"


@each_head
def test_autocast(head: Head):
    exact = head.results(head.plain, head.inputs(torch.float64))
    inputs = head.inputs(torch.float32)
    errors = []
    for function in (head.ours, head.plain):
        with torch.autocast("cpu", torch.bfloat16):
            results = head.results(function, inputs)
        assert results[0].dtype is torch.bfloat16
        assert all(gradient.dtype is torch.float32 for gradient in results[1:])
        errors.append(map(relative_error, results, exact))
    assert all(error <= 2 * allowed for error, allowed in zip(*errors, strict=True))


@each_head
def test_compiles_in_one_graph(head: Head):
    torch._dynamo.reset()
    inputs = head.inputs(torch.float32)
    compiled = torch.compile(head.ours, fullgraph=True, backend="aot_eager")
    results, expected = head.results(compiled, inputs), head.results(head.ours, inputs)
    torch.testing.assert_close(results, expected)


def test_one_image_of_the_batch_is_the_same_alone():
    """Nothing is shared between images."""
    for head in HEADS:
        maps = head.inputs(torch.float64)
        weights = maps[len(head.maps) :]
        both = head.ours(maps[: len(head.maps)], *weights)
        alone = head.ours([m[1:] for m in maps[: len(head.maps)]], *weights)
        torch.testing.assert_close(both[1:], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("composed", [True, False])
def test_separable_convolution_either_way(composed: bool, monkeypatch: pytest.MonkeyPatch):
    """The part multiplied before or after it is resized."""
    head = next(h for h in HEADS if "separable" in h.name)

    def pays(part: torch.Tensor, weight: torch.Tensor, size: list[int]) -> bool:
        return composed and list(part.shape[2:]) != size

    monkeypatch.setattr(separable_module, "separable_pays", pays)
    inputs = head.inputs(torch.float64)
    results, expected = head.results(head.ours, inputs), head.results(head.plain, inputs)
    assert max(map(relative_error, results, expected)) <= 1e-12


def test_pyramid_without_cells_is_a_convolution():
    x, weight = torch.randn(1, 4, 5, 6), torch.randn(3, 4, 3, 3)
    torch.testing.assert_close(pyramid_conv2d(x, [], weight), F.conv2d(x, weight, padding=1))


def test_errors_name_the_argument():
    x, cells = torch.ones(1, 4, 6, 6), [torch.ones(1, 2, 3, 3)]
    with pytest.raises(ValueError, match=r"weight has shape .*\[C_out, 6, k, k\] with odd k"):
        pyramid_conv2d(x, cells, torch.ones(3, 5, 3, 3))
    with pytest.raises(ValueError, match="odd k"):
        pyramid_conv2d(x, cells, torch.ones(3, 6, 2, 2))
    with pytest.raises(ValueError, match="depthwise_weight has shape"):
        upsample_separable_conv2d([x], torch.ones(3, 1, 3, 3), torch.ones(5, 4, 1, 1))
    with pytest.raises(ValueError, match="pointwise_weight has shape"):
        upsample_separable_conv2d([x], torch.ones(4, 1, 3, 3), torch.ones(5, 3, 1, 1))


def test_flops_of_the_published_heads():
    """GFLOP as written and at low resolution."""

    def billions(flops) -> tuple[float, float]:
        return round(flops.before / 1e9, 1), round(flops.after / 1e9, 1)

    pyramid = [(1, 512, b, b) for b in (1, 2, 3, 6)]
    levels = [(1, 64, 128, 128), (1, 128, 64, 64), (1, 320, 32, 32), (1, 512, 16, 16)]
    assert billions(mlp_fuse_flops(levels, 768, 768)) == (80.4, 4.0)  # 0.8 are the weights' own
    psp = pyramid_conv2d_flops((1, 2048, 90, 90), pyramid, (512, 4096, 3, 3))
    assert billions(psp) == (305.8, 156.9)
    fpn = [(1, 512, s, s) for s in (128, 64, 32, 16)]
    assert billions(upsample_conv2d_flops(fpn, (512, 2048, 3, 3))) == (309.2, 102.7)
    plus = [(1, 48, 129, 129), (1, 256, 33, 33)]
    assert billions(upsample_conv2d_flops(plus, (256, 304, 3, 3))) == (23.3, 5.0)
    assert billions(upsample_separable_conv2d_flops(plus, (256, 304, 1, 1))) == (2.7, 1.7)
    unet = upsample_conv2d_flops([(1, 32, 256, 256)], (16, 32, 3, 3), (512, 512), "nearest")
    assert billions(unet) == (2.4, 1.1)
