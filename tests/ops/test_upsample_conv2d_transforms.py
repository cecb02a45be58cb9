"""upsample_conv2d, which is made of other functions, under torch.func and forward-mode AD."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from test_all_ops_transforms import _TRANSFORMS, _assert_close, _jvp, _linearize

from fastseg import upsample_conv2d

# Parts before the resize, after it, doubled by phases, of one pixel; two of one size.
_PARTS = {
    "small": [(1, 3, 8, 8)],
    "low and high": [(1, 40, 2, 2), (1, 2, 8, 8)],
    "doubled": [(1, 4, 4, 4)],
    "pyramid": [(1, 64, 4, 4), (1, 32, 1, 1), (1, 2, 8, 8)],
    "all low": [(1, 8, 3, 3), (1, 8, 2, 2)],
}


@pytest.mark.parametrize("transform", _TRANSFORMS, ids=lambda f: f.__name__[1:])
@pytest.mark.parametrize("shapes", _PARTS.values(), ids=_PARTS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_transforms(kernel, mode, shapes, transform):
    options = {} if mode == "nearest" else {"align_corners": False}

    def peer(*args: torch.Tensor) -> torch.Tensor:
        *parts, weight, bias = args
        resized = [F.interpolate(p, (8, 8), mode=mode, **options) for p in parts]
        return F.conv2d(torch.cat(resized, 1), weight, bias, padding=kernel // 2)

    def ours(*args: torch.Tensor) -> torch.Tensor:
        *parts, weight, bias = args
        return upsample_conv2d(parts, weight, bias, 8, mode)

    parts = [torch.randn(s, dtype=torch.float64) for s in shapes]
    parts[-1] = parts[-1].contiguous(memory_format=torch.channels_last)
    channels = sum(s[1] for s in shapes)
    weight = 0.2 * torch.randn(3, channels, kernel, kernel, dtype=torch.float64)
    args = (*parts, weight, torch.randn(3, dtype=torch.float64))
    expected = (_jvp if transform is _linearize else transform)(peer, args)
    _assert_close(transform(ours, args), expected)
