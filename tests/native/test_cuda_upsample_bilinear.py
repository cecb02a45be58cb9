"""upsample_bilinear's CUDA kernels on the CPU: sizes around every vector, tile, chunk and pass."""

from __future__ import annotations

import itertools

import pytest
import torch
from op_cases import DTYPES

from fastseg import Backend, _native, upsample_bilinear, use_backend
from fastseg.testing import poisoned_empty

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))

_MATRIX = [
    (channels, size)
    for channels in (1, 2, 7, 8, 16, 40)
    for size in (((3, 5), (7, 16)), ((5, 4), (11, 15)), ((6, 9), (4, 3)))
]


@each_dtype
@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
def test_upsample_bilinear_around_vectors_and_tiles(
    emulated_core, dtype, channels_last, align_corners
):
    for seed, (channels, (low, high)) in enumerate(_MATRIX):
        _compare(dtype, 2, channels, low, high, channels_last, align_corners, seed)


@pytest.mark.parametrize(
    ("why", "channels", "low", "high", "channels_last"),
    [
        ("more rows than a table holds", 3, (2, 3), (150, 5), False),
        ("more source rows than a chunk", 2, (70, 2), (75, 3), False),
        ("more source columns than a tile", 1, (2, 600), (3, 603), False),
        ("columns down by more than a tile", 1, (2, 600), (2, 3), False),
        ("several passes over the columns", 1, (2, 1), (3, 2500), False),
        ("several passes, aligned", 2, (2, 2), (3, 4096), False),
        ("several passes, channels_last", 3, (3, 1), (5, 1500), True),
        ("several passes, channels_last, aligned", 16, (2, 1), (3, 700), True),
        ("channels in unequal tiles", 150, (2, 3), (4, 6), True),
        ("channels fill several tiles", 96, (3, 3), (9, 9), True),
        ("few channels per tile, as many columns touch one", 64, (3, 1), (7, 129), True),
        ("more planes than a tile", 700, (1, 1), (2, 2), False),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_upsample_bilinear_beyond_tiles(emulated_core, why, channels, low, high, channels_last):
    for dtype, align_corners in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        _compare(dtype, 1, channels, low, high, channels_last, align_corners, seed=3)


def _compare(
    dtype: torch.dtype,
    batch: int,
    channels: int,
    low: tuple[int, int],
    high: tuple[int, int],
    channels_last: bool,
    align_corners: bool,
    seed: int,
) -> None:
    """Both directions against the reference in float64: one rounding of the storage type, and a few
    of the compute type."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(batch, channels, *low).to(dtype, memory_format=layout)
    grad = torch.randn(batch, channels, *high).to(dtype, memory_format=layout)

    def both(x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_()
        out = upsample_bilinear(x, high, align_corners=align_corners)
        return out.detach(), torch.autograd.grad(out, x, grad)[0]

    _native._C.cuda_on_cpu.set_order(seed)
    with use_backend(Backend.NATIVE), poisoned_empty():
        results = both(x, grad)
    with use_backend(Backend.REFERENCE):
        truths = both(x.double(), grad.double())
        magnitudes = both(x.double().abs(), grad.double().abs())
    compute = torch.float64 if dtype is torch.float64 else torch.float32
    for what, result, truth, magnitude in zip(
        ("result", "gradient"), results, truths, magnitudes, strict=True
    ):
        assert result.is_contiguous(memory_format=layout)
        bound = torch.finfo(dtype).eps / 2 * truth.abs() + 8 * torch.finfo(compute).eps * magnitude
        wrong = ~(
            (result.double() - truth).abs()
            <= bound + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        )
        assert not wrong.any(), f"{what}, {channels} channels {low} -> {high}: {wrong.nonzero()}"


def test_upsample_bilinear_on_misaligned_memory(emulated_core):
    """Maps that start 4 bytes after a 16-byte boundary, narrow ones, in both layouts."""
    x = torch.randn(2 * 3 * 4 + 1)[1:].view(1, 2, 3, 4)
    expected = torch.nn.functional.interpolate(x, (6, 8), mode="bilinear")
    out = torch.full((1 * 2 * 6 * 8 + 1,), float("nan"))[1:].view(1, 2, 6, 8)
    with torch.no_grad():
        upsample_bilinear(x, (6, 8), out=out)
    torch.testing.assert_close(out, expected)
    y = torch.randn(2 * 8 * 4 * 4 + 1)[1:].view(2, 4, 4, 8).permute(0, 3, 1, 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = torch.nn.functional.interpolate(y, (6, 8), mode="bilinear")
    torch.testing.assert_close(upsample_bilinear(y, (6, 8)), expected)


@each_dtype
@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
def test_upsample_bilinear_rows_that_begin_anywhere(emulated_core, dtype, align_corners):
    """Any width, maps that begin anywhere: right, nothing written beside the map, the same bits
    wherever it begins and whatever block runs first."""
    items = 16 // dtype.itemsize
    widths = (*range(1, 41), 31 * items - 1, 31 * items + 3, 129)
    low, planes = (2, 9), 3
    for width in widths:
        high = (3, width)
        x = torch.randn(1, planes, *low).to(dtype)
        grad = torch.randn(1, planes, *high).to(dtype)
        first = None
        for start in range(items) if width in (33, 40) else (0, width % items):
            _native._C.cuda_on_cpu.set_order(start)
            memory = torch.full((start + grad.numel() + items,), 17.0, dtype=dtype)
            out = memory[start : start + grad.numel()].view_as(grad)
            with use_backend(Backend.NATIVE), torch.no_grad():
                upsample_bilinear(x, high, align_corners=align_corners, out=out)
            beside = torch.cat((memory[:start], memory[start + grad.numel() :]))
            assert (beside == 17.0).all(), f"width {width}, start {start}: written beside the map"
            moved = torch.empty(start + grad.numel(), dtype=dtype)[start:].view_as(grad)
            gradient = _gradient(x, moved.copy_(grad), align_corners)
            if first is None:
                first = (out, gradient)
                _compare(dtype, 1, planes, low, high, False, align_corners, seed=1)
            assert torch.equal(out, first[0]), f"result, width {width}, start {start}"
            assert torch.equal(gradient, first[1]), f"gradient, width {width}, start {start}"


def _gradient(x: torch.Tensor, grad: torch.Tensor, align_corners: bool) -> torch.Tensor:
    with use_backend(Backend.NATIVE), poisoned_empty():
        x = x.detach().requires_grad_()
        out = upsample_bilinear(x, tuple(grad.shape[2:]), align_corners=align_corners)
        return torch.autograd.grad(out, x, grad)[0]
