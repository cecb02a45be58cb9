"""The memory format of results."""

from __future__ import annotations

import pytest
import torch

from fastseg.layout import empty_map, map_format

LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format


def _last(*shape):
    return torch.zeros(shape).contiguous(memory_format=LAST)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.zeros(2, 3, 4, 5), CONTIGUOUS),
        (_last(2, 3, 4, 5), LAST),
        (_last(2, 3, 8, 5)[:, :, ::2], LAST),
        (_last(2, 8, 4, 5)[:, :5], LAST),
        (torch.zeros(2, 3, 4, 8)[..., ::2], CONTIGUOUS),
        (torch.zeros(2, 3, 5, 4).transpose(2, 3), CONTIGUOUS),
        (torch.zeros(1, 1, 4, 5).expand(2, 3, 4, 5), CONTIGUOUS),
        (_last(2, 1, 4, 5), CONTIGUOUS),
        (_last(2, 3, 1, 1), CONTIGUOUS),
        (_last(0, 3, 4, 5), CONTIGUOUS),
    ],
    ids=lambda x: f"{tuple(x.shape)} {x.stride()}" if isinstance(x, torch.Tensor) else str(x),
)
def test_map_format(x, expected):
    assert map_format(x) is expected
    y = empty_map(x, 7, [6, 5])
    assert y.shape == (x.shape[0], 7, 6, 5) and y.dtype == x.dtype
    assert y.is_contiguous(memory_format=expected)
