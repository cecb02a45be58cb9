"""Every tile that ships, in Triton's interpreter against the definition in float64."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastseg import Backend, BackendUnavailable, dilated_conv2d, use_backend
from fastseg.ops.dilated_conv2d import conv_branches
from fastseg.ops.dilated_conv2d.samples import SAMPLES
from fastseg.ops.dilated_conv2d.triton_config import (
    ConvConfig,
    GradientConfig,
    conv_configs,
    gradient_configs,
)
from fastseg.ops.dilated_conv2d.triton_tiles import Taps
from fastseg.testing import Maker, assert_as_accurate, poisoned_empty

pytestmark = pytest.mark.interpreter


@pytest.fixture(autouse=True)
def _exact_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter does not round to TF32; the tiles of that are chosen by name."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def channels_last(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def tiles(kind: Any) -> list[Any]:
    """Every tile of a kernel, with a dtype that it runs in and the form of its loads."""
    found = []
    for dtype, how in (
        (torch.float16, "ieee"),
        (torch.float32, "tf32"),
        (torch.float32, "ieee"),
    ):
        for descriptors in (True, False):
            found += [
                pytest.param(
                    config,
                    dtype,
                    descriptors,
                    id=f"{dtype}-{how}-{'tma' if descriptors else 'pointers'}-{i}".removeprefix(
                        "torch."
                    ),
                )
                for i, config in enumerate(kind(dtype, how, descriptors))
            ]
    return found


def sizes(box: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Images, height, width of maps with two boxes along each axis, the second one cut off (of
    eight images there is half a box); and a rate."""
    return box[0] + 1 if box[0] < 8 else 5, box[1] + 1, box[2] + 1, box[1] // 2 + 1


@pytest.mark.parametrize("config, dtype, descriptors", tiles(conv_configs))
def test_each_tile_of_the_convolution(config: ConvConfig, dtype, descriptors):
    """Rests in every direction: images, rows, columns, channels in and out. Of a tile's pixels some
    taps see all, some a few, some none."""
    from fastseg.ops.dilated_conv2d.triton_launch import convolve

    images, height, width, rate = sizes(config.box)
    channels = config.depth + 8
    out_channels = config.out_channels + 8 if images > 2 else config.out_channels // 2 + 8
    x = channels_last(images, channels, height, width, dtype=dtype)
    weight = channels_last(out_channels, channels, 3, 3, dtype=dtype)
    peer = F.conv2d(x, weight, padding=rate, dilation=rate)
    truth = F.conv2d(x.double(), weight.double(), padding=rate, dilation=rate)
    out = torch.full_like(peer, float("nan"))
    taps = Taps.of_forward((3, 3), (rate, rate), (rate, rate))
    convolve(x, [weight], (taps,), out, config=config, descriptors=descriptors)
    assert_as_accurate(out, peer, truth)


@pytest.mark.parametrize("config, dtype, descriptors", tiles(gradient_configs))
def test_each_tile_of_the_weight_gradient(config: GradientConfig, dtype, descriptors):
    from fastseg.ops.dilated_conv2d.triton_launch import weight_gradient

    images, height, width, rate = sizes(config.box)
    x = channels_last(images, config.channels + 8, height, width, dtype=dtype)
    grad = channels_last(images, config.out_channels // 2 + 8, height, width, dtype=dtype)
    shape = (grad.shape[1], x.shape[1], 3, 3)
    geometry = {"padding": rate, "dilation": rate}
    peer = torch.nn.grad.conv2d_weight(x, shape, grad, **geometry)
    truth = torch.nn.grad.conv2d_weight(x.double(), shape, grad.double(), **geometry)
    taps = Taps.of_forward((3, 3), (rate, rate), (rate, rate))
    with poisoned_empty():
        ours = weight_gradient(grad, x, (3, 3), taps, config=config, descriptors=descriptors)
    assert_as_accurate(ours, peer, truth)


@dataclasses.dataclass(frozen=True)
class Case:
    why: str
    shape: tuple[int, ...]
    weight: tuple[int, ...]
    arguments: dict[str, Any]
    bias: bool = False


CASES = (
    Case(
        "everything differs between the axes",
        (2, 16, 7, 12),
        (24, 16, 2, 3),
        {"padding": (4, 1), "dilation": (3, 2)},
        bias=True,
    ),
    Case("1x1", (3, 8, 5, 6), (16, 8, 1, 1), {}),
    Case("without padding", (1, 8, 9, 10), (8, 8, 3, 3), {"dilation": 2}),
    Case("outputs wholly in the padding", (2, 8, 3, 4), (8, 8, 3, 3), {"padding": 7}, bias=True),
    Case("one tap alone sees the map", (1, 8, 5, 5), (8, 8, 3, 3), {"padding": 9, "dilation": 9}),
    Case("one pixel", (2, 8, 1, 1), (8, 8, 3, 3), {"padding": 1}),
    Case("one column, odd channels", (2, 5, 6, 1), (3, 5, 3, 1), {"padding": (1, 0)}, bias=True),
    Case("one channel", (1, 1, 6, 5), (1, 1, 3, 3), {"padding": 1}),
)


def run(case: Case, dtype: torch.dtype, backend: Backend | None) -> list[torch.Tensor]:
    """The result and all gradients."""
    make = Maker(torch.float16)  # numbers that all dtypes hold
    values = {"x": make.map(*case.shape), "weight": make.tensor(*case.weight)}
    if case.bias:
        values["bias"] = make.tensor(case.weight[0])
    leaves = {k: v.to(dtype).requires_grad_() for k, v in values.items()}
    with use_backend(backend):
        out = dilated_conv2d(**leaves, **case.arguments)
        grad = Maker(torch.float16, seed=1).tensor(*out.shape).to(dtype)
        return [out, *torch.autograd.grad(out, list(leaves.values()), grad)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.why)
def test_result_and_gradients_of_odd_geometries(case: Case):
    with poisoned_empty():
        ours = run(case, torch.float32, Backend.TRITON)
    peers, truths = (run(case, dtype, None) for dtype in (torch.float32, torch.float64))
    for result, peer, truth in zip(ours, peers, truths, strict=True):
        assert_as_accurate(result, peer, truth)


@pytest.mark.parametrize("descriptors", (True, False), ids=("tma", "pointers"))
def test_a_tile_in_bfloat16(descriptors: bool, bfloat16_products):
    """The tiles are those of float16."""
    from fastseg.ops.dilated_conv2d.triton_launch import convolve

    assert conv_configs(torch.bfloat16, "ieee", descriptors) == conv_configs(
        torch.float16, "ieee", descriptors
    )
    config = min(conv_configs(torch.bfloat16, "ieee", descriptors), key=lambda c: c.out_channels)
    x = channels_last(1, config.depth + 8, 5, 6, dtype=torch.bfloat16)
    weight = channels_last(24, config.depth + 8, 3, 3, dtype=torch.bfloat16)
    truth = F.conv2d(x.double(), weight.double(), padding=2, dilation=2)
    out = torch.full_like(truth, float("nan"), dtype=torch.bfloat16)
    taps = Taps.of_forward((3, 3), (2, 2), (2, 2))
    convolve(x, [weight], (taps,), out, config=config, descriptors=descriptors)
    assert_as_accurate(out, F.conv2d(x, weight, padding=2, dilation=2), truth)


def test_bfloat16(bfloat16_products):
    ours = run(CASES[0], torch.bfloat16, Backend.TRITON)
    peers, truths = (run(CASES[0], dtype, None) for dtype in (torch.bfloat16, torch.float64))
    for result, peer, truth in zip(ours, peers, truths, strict=True):
        assert_as_accurate(result, peer, truth)


def test_the_samples_of_the_op_in_all_layouts():
    names = set()
    for sample in SAMPLES.samples:
        try:
            with use_backend(Backend.TRITON):
                ours = dilated_conv2d(**sample.inputs(Maker()))
        except BackendUnavailable:
            continue
        names.add(sample.why)
        truth = F.conv2d(**sample.inputs(Maker(torch.float64)))
        assert_as_accurate(ours, F.conv2d(**sample.inputs(Maker())), truth, what=sample.why)
    assert {"dense", "dense, channels_last", "one pixel"} & names == {
        "dense",
        "dense, channels_last",
    }


# The epilogue and several branches.


def branch_inputs(
    count: int, dtype: torch.dtype = torch.float32, channels: int = 16
) -> dict[str, Any]:
    make = Maker(dtype)
    kernels = [(1, 1), (3, 3), (3, 3), (3, 3), (1, 3)][:count]
    return {
        "x": make.map(2, channels, 9, 10, layout="channels_last"),
        "weights": [make.tensor(24, channels, *k, scale=0.1) for k in kernels],
        "dilations": [1, 2, 6, 12, 3][:count],
        "scale": make.tensor(24 * count),
        "shift": make.tensor(24 * count),
    }


@pytest.mark.parametrize("channels", (16, 15), ids=("tma", "pointers"))
@pytest.mark.parametrize("count", (1, 2, 3, 5))
def test_branches_in_one_launch(count: int, channels: int):
    """Five are two launches, of four and of one: the second writes behind the first."""
    results = []
    for backend, dtype in (
        (Backend.TRITON, torch.float32),
        (Backend.TORCH, torch.float32),
        (Backend.REFERENCE, torch.float64),
    ):
        with use_backend(backend), poisoned_empty():
            results.append(conv_branches(**branch_inputs(count, dtype, channels)))
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    assert_as_accurate(*results)


@pytest.mark.parametrize("leave_out", ("scale", "shift", "neither"))
@pytest.mark.parametrize("limit", (0.5, float("inf")))
def test_epilogue(leave_out: str, limit: float):
    results = []
    for backend, dtype in (
        (Backend.TRITON, torch.float32),
        (Backend.TORCH, torch.float32),
        (Backend.REFERENCE, torch.float64),
    ):
        inputs = {k: v for k, v in branch_inputs(2, dtype).items() if k != leave_out}
        with use_backend(backend):
            results.append(conv_branches(**inputs, limit=limit))
    assert results[0].max() <= limit and results[0].min() == 0.0
    assert_as_accurate(*results)


def test_nan_goes_through_the_clamp():
    inputs = branch_inputs(1)
    inputs["x"][0, 3, 4, 5] = float("nan")
    with use_backend(Backend.TRITON):
        out = conv_branches(**inputs)
    assert out[0, :, 4, 5].isnan().all()
    assert out.isnan().sum() == 24


def test_writes_its_channels_of_a_larger_map_and_no_others():
    from fastseg.ops.dilated_conv2d.triton_launch import convolve

    x = channels_last(2, 8, 5, 7, dtype=torch.float32)
    weight = channels_last(16, 8, 3, 3, dtype=torch.float32)
    buffer = channels_last(2, 40, 5, 7, dtype=torch.float32)
    before = buffer.clone()
    taps = Taps.of_forward((3, 3), (2, 2), (2, 2))
    convolve(x, [weight], (taps,), buffer[:, 12:28])
    torch.testing.assert_close(buffer[:, 12:28], F.conv2d(x, weight, padding=2, dilation=2))
    assert torch.equal(buffer[:, :12], before[:, :12])
    assert torch.equal(buffer[:, 28:], before[:, 28:])


def test_importing_the_package_does_not_import_triton():
    script = "import sys, fastseg; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_says_what_it_does_not_take():
    x, weight = torch.randn(1, 4, 5, 5), torch.randn(4, 4, 3, 3)
    for match, call in (
        ("groups is 2", lambda: dilated_conv2d(x, weight[:, :2], groups=2)),
        ("stride is", lambda: dilated_conv2d(x, weight, stride=2)),
        ("float64", lambda: dilated_conv2d(x.double(), weight.double())),
        ("empty", lambda: dilated_conv2d(x[:0], weight)),
    ):
        with use_backend(Backend.TRITON), pytest.raises(BackendUnavailable, match=match):
            call()
