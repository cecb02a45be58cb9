"""upsample_bilinear's 16-byte accesses to rows that begin anywhere, on a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastseg import Backend, upsample_bilinear, use_backend
from fastseg.testing import assert_as_accurate

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("align_corners", [False, True], ids=["edges", "corners"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_rows_that_begin_anywhere(dtype, align_corners):
    """The widths of segmentation, maps that begin at any element: right, nothing written beside the
    map, the same bits wherever it begins."""
    items = 16 // dtype.itemsize
    for low, high in (((9, 17), (65, 129)), ((33, 65), (257, 513)), ((25, 97), (193, 769))):
        x = torch.randn(2, 3, *low, device=DEVICE).to(dtype).requires_grad_()
        grad = torch.randn(2, 3, *high, device=DEVICE).to(dtype)
        first = None
        for start in range(items):
            memory = torch.full((start + grad.numel() + items,), 17.0, dtype=dtype, device=DEVICE)
            out = memory[start : start + grad.numel()].view_as(grad)
            moved = torch.empty(start + grad.numel(), dtype=dtype, device=DEVICE)[start:]
            moved = moved.view_as(grad).copy_(grad)
            with use_backend(Backend.NATIVE):
                with torch.no_grad():
                    upsample_bilinear(x, high, align_corners=align_corners, out=out)
                result = upsample_bilinear(x, high, align_corners=align_corners)
                gradient = torch.autograd.grad(result, x, moved)[0]
            assert (memory[:start] == 17.0).all() and (memory[start + grad.numel() :] == 17.0).all()
            if first is None:
                first = (out, gradient)
                peers, truths = ([], [])
                for values, kind in ((peers, dtype), (truths, torch.float64)):
                    y = x.detach().to(kind).requires_grad_()
                    z = F.interpolate(y, high, mode="bilinear", align_corners=align_corners)
                    values += [z.detach(), *torch.autograd.grad(z, y, grad.to(kind))]
                for ours, peer, truth in zip(first, peers, truths, strict=True):
                    assert_as_accurate(ours, peer, truth)
            assert torch.equal(out, first[0]), f"result, {high}, start {start}"
            assert torch.equal(gradient, first[1]), f"gradient, {high}, start {start}"
