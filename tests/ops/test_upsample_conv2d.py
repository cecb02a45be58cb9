"""upsample_conv2d: the composition that it replaces, whichever way each part goes."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_cases import RecordedCalls, cast, forward_and_gradients, inputs, tensors
from torch._subclasses.fake_tensor import FakeTensorMode

import fastseg
from fastseg import _native, upsample_conv2d
from fastseg.layout import map_format
from fastseg.ops.upsample_conv2d import plan
from fastseg.ops.upsample_conv2d.samples import SAMPLES
from fastseg.testing import Maker, assert_as_accurate, poisoned_empty, relative_error

OP = importlib.import_module("fastseg.ops.upsample_conv2d")
each_sample = pytest.mark.parametrize("sample", SAMPLES.samples, ids=lambda s: s.why)
each_filled_sample = pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES.samples if min(map(torch.numel, tensors(inputs(s)))) > 0],
    ids=lambda s: s.why,
)
ROUTES = ("chosen", "before", "after")


@pytest.fixture(params=ROUTES)
def route(request, monkeypatch):
    """Multiplied before the resize or after it, for every part that is resized, or as chosen."""
    if request.param != "chosen":
        before = request.param == "before"

        def always(part: torch.Tensor, weight: torch.Tensor, size: list[int]) -> bool:
            return before and list(part.shape[2:]) != list(size)

        monkeypatch.setattr(OP, "pays", always)
        monkeypatch.setattr(OP, "phases_pay", lambda *_: False)
    return request.param


def _run(function: Any, values: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return forward_and_gradients(function, values, SAMPLES.differentiable)


@each_sample
def test_equals_the_composition_in_float64(sample, route):
    values = inputs(sample, torch.float64)
    with poisoned_empty():
        result, grads = _run(SAMPLES.function, values)
    expected, expected_grads = _run(SAMPLES.peer, values)
    assert result.shape == expected.shape
    assert relative_error(result, expected) <= 1e-13
    for name, grad in grads.items():
        assert grad.shape == values[name].shape
        assert relative_error(grad, expected_grads[name]) <= 1e-13, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_filled_sample
def test_as_accurate_as_the_composition(sample, dtype, route):
    values = inputs(sample, dtype)
    result, grads = _run(SAMPLES.function, values)
    peer, peer_grads = _run(SAMPLES.peer, values)
    truth, true_grads = _run(SAMPLES.peer, cast(values, torch.float64))
    assert_as_accurate(result, peer, truth, ratio=2.0, what="result")
    for name, grad in grads.items():
        assert_as_accurate(grad, peer_grads[name], true_grads[name], ratio=2.0, what=name)


SIZES = [(1, 1), (1, 5), (2, 3), (3, 2), (4, 4), (5, 9), (7, 1), (8, 8), (11, 6)]


@pytest.mark.parametrize(
    ("mode", "align_corners"), [("bilinear", 0), ("bilinear", 1), ("nearest", 0)]
)
@pytest.mark.parametrize("kernel", [1, 3])
def test_many_sizes(kernel, mode, align_corners, monkeypatch):
    """All pairs of part and result, up and down, at low resolution."""
    monkeypatch.setattr(OP, "pays", lambda *_: True)
    make = Maker(torch.float64)
    weight = make.tensor(5, 3, kernel, kernel)
    options = {"mode": mode, "align_corners": bool(align_corners)}
    for part in SIZES:
        x = make.map(1, 3, *part)
        for size in [*SIZES, (16, 23)]:
            expected = SAMPLES.peer(x=x, weight=weight, size=size, **options)
            result = upsample_conv2d([x], weight, size=size, **options)
            error = relative_error(result, expected)
            assert error <= 1e-13, f"{part} -> {size}: {error:.1e}"


def test_nearest_reads_the_pixels_that_interpolate_reads(monkeypatch):
    monkeypatch.setattr(OP, "pays", lambda *_: True)
    weight = torch.ones(1, 1, 1, 1)
    for part in range(1, 60):
        x = torch.arange(1.0, part + 1).view(1, 1, 1, part)
        for size in range(1, 130):
            expected = F.interpolate(x, (1, size), mode="nearest")
            result = upsample_conv2d([x], weight, size=(1, size), mode="nearest")
            assert torch.equal(result, expected), f"{part} -> {size}"


@each_filled_sample
def test_gradcheck(sample, route):
    values = inputs(sample, torch.float64)
    names = [n for n in SAMPLES.differentiable if values.get(n) is not None]
    leaves = [values[n].requires_grad_() for n in names]

    def function(*leaves: torch.Tensor) -> torch.Tensor:
        return SAMPLES.function(**{**values, **dict(zip(names, leaves, strict=True))})

    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    if route == "before" or (route == "chosen" and "doubled" in sample.why):
        assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


@each_filled_sample
def test_backward_is_the_adjoint(sample, route):
    """Of the map from one part to the result: <A x, y> = <x, A' y>."""
    values = {**inputs(sample, torch.float64), "bias": None}
    names = [n for n in ("x", "x2", "x3", "x4", "x5") if n in values]
    for name in names:
        alone = {n: values[n] * (n == name) if n in names else values[n] for n in values}
        result, grads = forward_and_gradients(SAMPLES.function, alone, (name,))
        y = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
        left, right = (result * y.bfloat16()).sum(), (values[name] * grads[name]).sum()
        size = result.norm() * y.norm() + values[name].norm() * grads[name].norm()
        assert (left - right).abs() <= 64 * torch.finfo(torch.float64).eps * size


@each_sample
def test_layouts(sample):
    values = inputs(sample)
    result, grads = _run(SAMPLES.function, values)
    parts = [values[n] for n in ("x", "x2", "x3", "x4", "x5") if n in values]
    largest = max(parts, key=lambda p: p.shape[2] * p.shape[3])
    assert result.is_contiguous(memory_format=map_format(largest))
    assert all(g.shape == values[n].shape for n, g in grads.items())


@each_filled_sample
def test_same_bits_again(sample, route):
    first, again = (_run(SAMPLES.function, inputs(sample)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert all(torch.equal(grad, again[1][name]) for name, grad in first[1].items())


def test_the_largest_part_gives_the_size():
    low, large = Maker().map(1, 3, 4, 4), Maker().map(1, 2, 6, 9)
    weight = Maker().tensor(4, 5, 3, 3)
    assert upsample_conv2d([low, large], weight).shape == (1, 4, 6, 9)
    assert upsample_conv2d((low, large), weight, size=7).shape == (1, 4, 7, 7)


def test_what_pays():
    """Few output channels or little to save are not worth the resize of nine taps."""

    def pays(channels: int, out: int, kernel: int, low: int, size: int) -> bool:
        part = torch.empty(1, channels, low, low, device="meta")
        weight = torch.empty(out, channels, kernel, kernel, device="meta")
        return plan.pays(part, weight, [size, size])

    assert pays(512, 512, 3, 64, 128)  # UPerNet
    assert pays(512, 512, 3, 1, 60)  # PSPNet
    assert pays(256, 256, 3, 33, 129)  # DeepLabV3+
    assert pays(512, 768, 1, 16, 128)  # SegFormer
    assert not pays(4, 16, 3, 64, 128)
    assert not pays(4, 512, 1, 64, 128)
    assert not pays(512, 512, 3, 128, 128)
    assert not pays(512, 512, 3, 128, 64)
    assert not pays(512, 512, 3, 127, 128)


def test_what_pays_on_a_gpu(monkeypatch):
    """There a value moved costs as much as 184 multiply-adds: the concatenated maps weigh more."""
    monkeypatch.setattr(_native, "has_cuda", lambda: True)

    def pays(channels: int, out: int, kernel: int, low: int, size: int) -> bool:
        with FakeTensorMode():
            part = torch.empty(1, channels, low, low, device="cuda")
            weight = torch.empty(out, channels, kernel, kernel, device="cuda")
            return plan.pays(part, weight, [size, size])

    assert pays(512, 512, 3, 64, 128)  # UPerNet
    assert pays(256, 256, 3, 33, 129)  # DeepLabV3+
    assert pays(512, 768, 1, 16, 128)  # SegFormer
    assert not pays(4, 16, 3, 64, 128)
    assert not pays(512, 512, 3, 128, 128)
    monkeypatch.setattr(_native, "has_cuda", lambda: False)
    assert not pays(512, 512, 3, 64, 128)


def test_when_phases_pay():
    """Few channels of a map that is doubled to the nearest pixel: the last stages of a UNet."""

    def pays(channels: int, size: int, mode: str = "nearest", kernel: int = 3) -> bool:
        part = torch.empty(1, channels, 16, 16, device="meta")
        weight = torch.empty(32, channels, kernel, kernel, device="meta")
        return plan.phases_pay(part, weight, [size, size], mode)

    assert pays(32, 32) and pays(64, 32)
    assert not pays(128, 32)  # nine taps at low resolution are fewer products
    assert not pays(32, 32, kernel=1) and not pays(32, 31) and not pays(32, 32, "bilinear")


def test_a_doubled_map_is_never_there(monkeypatch):
    """Neither resized nor multiplied with nine taps."""
    sample = next(s for s in SAMPLES.samples if s.why == "nearest, doubled alone")
    monkeypatch.setattr(F, "interpolate", None)
    with RecordedCalls() as mode, torch.no_grad():
        SAMPLES.function(**inputs(sample))
    assert mode.calls == []


def _workload_like(dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return inputs(SAMPLES.samples[2], dtype)


def test_the_resized_map_is_never_there():
    """One gather for up to four parts, and no resize, where every part pays."""
    sample = next(s for s in SAMPLES.samples if s.why == "low resolution only, 1x1")
    with RecordedCalls() as mode, torch.no_grad():
        SAMPLES.function(**inputs(sample))
    assert [f._opname for f, _ in mode.calls] == ["upsample_taps"]


def test_compile_is_one_graph():
    values = _workload_like()
    torch._dynamo.reset()
    compiled = torch.compile(SAMPLES.function, fullgraph=True, backend="aot_eager")
    (result, grads), (expected, expected_grads) = (
        _run(f, values) for f in (compiled, SAMPLES.function)
    )
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(grads, expected_grads)
    assert result.stride() == expected.stride()


def test_compile_with_dynamic_shapes():
    torch._dynamo.reset()
    values = _workload_like()
    parts, weight = [values["x"], values["x2"]], values["weight"][:, :67]
    compiled = torch.compile(upsample_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 3):
        sized = [torch.cat([p] * n) for p in parts]
        torch.testing.assert_close(compiled(sized, weight), upsample_conv2d(sized, weight))


def test_export():
    class Module(torch.nn.Module):
        def forward(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
            return SAMPLES.function(**values)

    values = _workload_like()
    dynamic = {k: {0: torch.export.Dim.DYNAMIC} if k[0] == "x" else None for k in values}
    program = torch.export.export(Module(), (values,), dynamic_shapes=(dynamic,), strict=False)
    torch.testing.assert_close(program.module()(values), SAMPLES.function(**values))


def test_autocast_runs_in_the_lower_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, grads = _run(SAMPLES.function, _workload_like())
    expected, expected_grads = _run(SAMPLES.function, _workload_like(torch.bfloat16))
    assert result.dtype is torch.bfloat16
    assert torch.equal(result, expected)
    for name, grad in grads.items():
        assert grad.dtype is torch.float32
        assert torch.equal(grad, expected_grads[name].float()), name


def test_fake_and_meta_tensors():
    values = _workload_like()
    expected = SAMPLES.function(**values)
    meta = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in values.items()}
    assert SAMPLES.function(**meta).shape == expected.shape
    with FakeTensorMode() as mode:
        fakes = {k: mode.from_tensor(v) for k, v in values.items()}
        fake = SAMPLES.function(**fakes)
    assert fake.shape == expected.shape and fake.stride() == expected.stride()


@pytest.mark.parametrize("sample", SAMPLES.errors, ids=lambda s: s.why)
def test_errors(sample):
    with pytest.raises(sample.error, match=sample.match):
        SAMPLES.function(**inputs(sample))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_parts_without_channels(kernel, place):
    """Encoders have them at resolutions that they skip; they still count for the size."""
    parts = [torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 4, 8, 10)]
    parts.insert(place, torch.randn(2, 0, 16, 20, requires_grad=True))
    weight = torch.randn(6, 7, kernel, kernel)
    resized = [F.interpolate(p, (16, 20), mode="bilinear") for p in parts if p.shape[1]]
    expected = F.conv2d(torch.cat(resized, 1), weight, padding=kernel // 2)
    found = upsample_conv2d(parts, weight)
    assert relative_error(found, expected) <= 1e-5
    found.sum().backward()
    with pytest.raises(ValueError, match="parts have no channels"):
        upsample_conv2d([parts[place], parts[place]], weight[:, :0])


def test_parts_must_be_a_sequence_of_maps():
    x, weight = torch.ones(1, 2, 4, 4), torch.ones(3, 2, 1, 1)
    with pytest.raises(TypeError, match="parts is a Tensor"):
        upsample_conv2d(x, weight)
    with pytest.raises(ValueError, match="parts is empty"):
        upsample_conv2d([], weight)
    with pytest.raises(TypeError, match=r"parts\[1\] is a int"):
        upsample_conv2d([x, 3], weight)


def test_the_reference_backend_does_the_same():
    values = _workload_like(torch.float64)
    expected, expected_grads = _run(SAMPLES.function, values)
    with fastseg.use_backend("reference"):
        result, grads = _run(SAMPLES.function, values)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(grads, expected_grads)


@each_filled_sample
def test_devices_without_a_gather_kernel(sample, monkeypatch):
    """Taps of 1x1 kernels are resized, others go through matrices, if the part is tiny."""
    monkeypatch.setattr(plan, "has_gather_kernel", lambda x: False)
    values = inputs(sample, torch.float64)
    with RecordedCalls() as mode:
        result, grads = _run(SAMPLES.function, values)
    if values["weight"].shape[2] == 1:
        assert not any("upsample_taps" in f._opname for f, _ in mode.calls)
    expected, expected_grads = _run(SAMPLES.peer, values)
    assert relative_error(result, expected) <= 1e-13
    assert all(relative_error(g, expected_grads[n]) <= 1e-13 for n, g in grads.items())
