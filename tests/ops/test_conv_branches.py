"""conv_branches: several convolutions of one map, scaled, shifted and clamped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from fastseg import use_backend
from fastseg.ops.dilated_conv2d import conv_branches
from fastseg.testing import Maker, assert_as_accurate


def inputs(dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> dict[str, Any]:
    make = Maker(dtype)
    return {
        "x": make.map(2, 6, 7, 9, layout=layout),
        "weights": [make.tensor(5, 6, 1, 1), make.tensor(5, 6, 3, 3), make.tensor(5, 6, 3, 1)],
        "dilations": [1, 2, 12],
        "scale": make.tensor(15),
        "shift": make.tensor(15),
        "limit": 6.0,
    }


def composition(x, weights, dilations, scale=None, shift=None, limit=float("inf")):
    maps = [
        F.conv2d(x, w, padding="same", dilation=d) for w, d in zip(weights, dilations, strict=True)
    ]
    out = torch.cat(maps, 1)
    out = out if scale is None else out * scale[:, None, None]
    out = out if shift is None else out + shift[:, None, None]
    return out.clamp(0, limit)


@pytest.mark.parametrize("backend", ("torch", "reference", None))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("layout", ("contiguous", "channels_last", "strided"))
def test_as_accurate_as_the_composition(backend, dtype, layout):
    truth = composition(**inputs(torch.float64))
    with use_backend(backend):
        out = conv_branches(**inputs(dtype, layout))
    assert_as_accurate(out, composition(**inputs(dtype, layout)), truth)
    assert out.stride(1) == (1 if layout == "channels_last" else 63)


def test_without_scale_and_shift_and_batch_0():
    given = {k: v for k, v in inputs(torch.float64).items() if k not in ("scale", "shift", "limit")}
    torch.testing.assert_close(conv_branches(**given), composition(**given))
    assert conv_branches(**{**given, "x": given["x"][:0]}).shape == (0, 15, 7, 9)


def test_fake_tensors_and_compile():
    given = inputs(layout="channels_last")
    expected = conv_branches(**given)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = conv_branches(**{**given, "x": mode.from_tensor(given["x"])})
    assert (fake.shape, fake.stride()) == (expected.shape, expected.stride())
    compiled = torch.compile(lambda x: conv_branches(**{**given, "x": x}), backend="aot_eager")
    torch.testing.assert_close(compiled(given["x"]), expected)


def test_autocast_casts_every_weight():
    given = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv_branches(**given)
    assert out.dtype is torch.bfloat16
    truth = composition(**inputs(torch.float64))
    peer = composition(**inputs(torch.bfloat16))
    assert_as_accurate(out, peer, truth)


def test_a_gradient_is_refused():
    given = inputs()
    given["x"].requires_grad_()
    with pytest.raises(NotImplementedError, match="no derivative"):
        conv_branches(**given).sum().backward()
    given = inputs()
    given["weights"][1].requires_grad_()
    with pytest.raises(NotImplementedError, match="no derivative"):
        conv_branches(**given).sum().backward()


@pytest.mark.parametrize(
    "error, match, changes",
    (
        (ValueError, "weights is empty", {"weights": []}),
        (ValueError, "dilations has 1", {"dilations": [1]}),
        (ValueError, r"dilations is \(1, 0, 2\)", {"dilations": [1, 0, 2]}),
        (ValueError, r"weights\[1\] has shape", {1: (5, 6, 2, 3)}),
        (ValueError, r"weights\[2\] has shape", {2: (4, 6, 3, 3)}),
        (ValueError, r"weights\[0\] has shape", {0: (5, 7, 1, 1)}),
        (ValueError, "scale has shape", {"scale": torch.ones(5)}),
        (ValueError, "limit is -1", {"limit": -1.0}),
        (ValueError, "limit is nan", {"limit": float("nan")}),
        (TypeError, "shift has dtype", {"shift": torch.ones(15, dtype=torch.float64)}),
    ),
)
def test_errors_name_the_argument(error, match, changes):
    given = inputs()
    for key, value in changes.items():
        if isinstance(key, int):
            given["weights"][key] = torch.ones(value)
        else:
            given[key] = value
    with pytest.raises(error, match=match):
        conv_branches(**given)
