"""Whole models on a GPU, and the ASPP of one: fastseg against eager PyTorch and torch.compile, both
in channels_last and AMP, with the same weights in one process.

`predict`: images to label maps. fastseg three times: model.predict_labels under autocast, that of
fastseg.fuse(model, torch.bfloat16), and that as one CUDA graph (fastseg.capture). `train`: forward,
loss and backward under autocast. Each case is checked against float32 before it is timed: other
labels, or a loss further off, than twice eager's own (and a little) are an error. Peak memory is
reported beside the times.

    pytest benchmarks/test_models_gpu.py --benchmark-only    all of it, torch.compile included
    pytest benchmarks/test_models_gpu.py --benchmark-only --no-compile -k "PSPNet and predict"
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_models import Plain, PlainDeepLabV3Plus, PlainPSPNet, made_plain, plain_aspp
from torch import nn

import fastseg
from fastseg.bench.memory import peak_extra_bytes
from fastseg.bench.timing import Variant, time_interleaved
from fastseg.models import SegmentationModel
from fastseg.nn import ASPP
from fastseg.testing import assert_as_accurate

CLASSES = 21
AMP = torch.bfloat16


class _PlainASPP(nn.Module):
    """Its branches as they are written, concatenated."""

    def __init__(self, aspp: nn.Module) -> None:
        super().__init__()
        self.aspp: Any = made_plain(copy.deepcopy(aspp))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return plain_aspp(self.aspp, x)


@dataclasses.dataclass(frozen=True)
class ModelCase:
    """One model and size; batches of each `what`."""

    name: str
    model: Callable[[], SegmentationModel]
    plain: Callable[[SegmentationModel], Plain]
    size: int
    predict: tuple[int, ...] = (1, 8)
    train: int = 8


def _plus(encoder: str) -> Callable[[], SegmentationModel]:
    return lambda: fastseg.DeepLabV3Plus(encoder, encoder_weights=None, classes=CLASSES)


CASES = (
    ModelCase(
        "PSPNet-R101 713",
        lambda: fastseg.PSPNet.dilated("resnet101", classes=CLASSES),
        PlainPSPNet,
        713,
    ),
    ModelCase("DeepLabV3Plus-R101 769", _plus("resnet101"), PlainDeepLabV3Plus, 769),
    ModelCase(
        "DeepLabV3Plus-MobileNetV2 513",
        _plus("mobilenet_v2"),
        PlainDeepLabV3Plus,
        513,
        train=16,
    ),
)
RUNS = [
    pytest.param(case, what, batch, id=f"{case.name} {what} N{batch}")
    for case in CASES
    for what, batches in (("predict", case.predict), ("train", (case.train,)))
    for batch in batches
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("model_case", "what", "batch"), RUNS)
def test_models_gpu(
    model_case: ModelCase,
    what: str,
    batch: int,
    benchmark: Any,
    say: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    compiled = not pytestconfig.getoption("--no-compile")
    variants, check = make_variants(model_case, what, batch, "cuda", compiled)
    check()
    _race(f"{model_case.name} {what} N{batch}", variants, benchmark, say)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("batch", (1, 8))
@pytest.mark.parametrize(
    ("size", "rates"), [(33, (6, 12, 18)), (97, (12, 24, 36))], ids=("W2-33x33", "W2b-97x97")
)
def test_aspp_gpu(
    size: int,
    rates: tuple[int, ...],
    batch: int,
    benchmark: Any,
    say: Callable[[str], None],
    pytestconfig: pytest.Config,
) -> None:
    """The whole module in eval mode, bfloat16, folded on both sides' account: fastseg's beforehand,
    the others' never."""
    compiled = not pytestconfig.getoption("--no-compile")
    variants, check = aspp_variants(size, rates, batch, "cuda", compiled)
    check()
    _race(f"ASPP {size}x{size} N{batch}", variants, benchmark, say)


def aspp_variants(
    size: int,
    rates: tuple[int, ...],
    batch: int,
    device: str,
    compiled: bool,
    channels: int = 2048,
) -> tuple[list[Variant], Callable[[], None]]:
    """What is timed, and the check that comes before."""
    torch.manual_seed(0)
    module = ASPP(channels, 256, rates).to(device, memory_format=torch.channels_last).eval()
    exact = _PlainASPP(module).eval()
    fused, plain = fastseg.fuse(module, AMP), _PlainASPP(module).eval().to(AMP)
    x = torch.randn(batch, channels, size, size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    half = x.to(AMP)
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "fastseg": fused,
        "eager": plain,
    }
    if compiled:
        functions["torch.compile"] = torch.compile(plain)

    def run(function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return function(half)

    def check() -> None:
        with torch.no_grad():
            truth = exact(x).double()
        for function in functions.values():
            assert_as_accurate(run(function), run(plain), truth)

    return [Variant(k, lambda _, f=f: run(f)) for k, f in functions.items()], check


def _race(name: str, variants: list[Variant], benchmark: Any, say: Callable[[str], None]) -> None:
    """Times them, and keeps times, peak memory and the ratios to our best."""
    timings = time_interleaved(variants, device="cuda", budget_s=4.0, min_rounds=5)
    rows = {
        v.label: {**timings[v.label].summary(), "peak_bytes": peak_extra_bytes(v, "cuda")}
        for v in variants
    }
    best = min((k for k in rows if k.startswith("fastseg")), key=lambda k: rows[k]["median_s"])
    ratios = {
        k: row["median_s"] / rows[best]["median_s"]
        for k, row in rows.items()
        if not k.startswith("fastseg")
    }
    memory = {k: row["peak_bytes"] for k, row in rows.items()}
    times = ", ".join(f"{k} {row['median_s'] * 1e3:.3f} ms" for k, row in rows.items())
    against = ", ".join(f"{ratio:.2f}x {k}" for k, ratio in ratios.items())
    share = memory["fastseg"] / max(1, memory["eager"])
    say(f"{name}: {times}: {against}, {share:.2f}x eager's memory")
    benchmark.group = "models"
    benchmark.extra_info["fastseg-models"] = {"variants": rows, "best": best, "speedup": ratios}
    benchmark.pedantic(
        next(v for v in variants if v.label == best).run, args=(None,), rounds=3, warmup_rounds=0
    )


def make_variants(
    case: ModelCase, what: str, batch: int, device: str, compiled: bool
) -> tuple[list[Variant], Callable[[], None]]:
    """What is timed, and the check that comes before."""
    torch.manual_seed(0)
    model = case.model()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    model = model.to(device, memory_format=torch.channels_last).train(what == "train")
    plain = case.plain(model).train(what == "train")
    x = torch.randn(batch, 3, case.size, case.size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    make = _predictions if what == "predict" else _steps
    calls, truth = make(model, plain, x, device, compiled)
    # One number is right by chance: a loss may be off by bfloat16's unit.
    distance, floor = (_other_labels, 1e-3) if what == "predict" else (_relative, 8e-3)

    def check() -> None:
        expected = truth()
        allowed = 2.0 * distance(calls["eager"](), expected) + floor
        for label, call in calls.items():
            error = distance(call(), expected)
            assert error <= allowed, f"{label}: {error:.2e} from float32, allowed {allowed:.2e}"

    return [Variant(label, lambda _, call=call: call()) for label, call in calls.items()], check


Calls = dict[str, Callable[[], torch.Tensor]]


def _predictions(
    model: SegmentationModel, plain: Plain, x: torch.Tensor, device: str, compiled: bool
) -> tuple[Calls, Callable[[], torch.Tensor]]:
    fused = fastseg.fuse(model, AMP)

    def amp(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            with torch.no_grad(), torch.autocast(device, AMP):
                return function(x)

        return call

    calls: Calls = {
        "fastseg": amp(model.predict_labels),
        "fastseg fused": lambda: fused.predict_labels(x),
        "eager": amp(lambda images: plain(images).argmax(1)),
    }
    if device == "cuda":
        captured = fastseg.capture(fused, x)
        calls["fastseg graph"] = lambda: captured(x)
    if compiled:
        network = torch.compile(plain)
        calls["torch.compile"] = amp(lambda images: network(images).argmax(1))

    def truth() -> torch.Tensor:
        with torch.no_grad():
            return plain(x).argmax(1)

    return calls, truth


def _steps(
    model: SegmentationModel, plain: Plain, x: torch.Tensor, device: str, compiled: bool
) -> tuple[Calls, Callable[[], torch.Tensor]]:
    target = torch.randint(0, CLASSES, (x.shape[0], *x.shape[2:]), device=device)

    def plain_loss(network: nn.Module) -> torch.Tensor:
        outputs = network(x)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        losses = [F.cross_entropy(y.float(), target, ignore_index=255) for y in outputs]
        return losses[0] + sum(model.auxiliary_weight * y for y in losses[1:])

    def step(network: nn.Module, loss: Callable[[], torch.Tensor], amp: bool = True) -> Any:
        def call() -> torch.Tensor:
            network.zero_grad()
            with torch.autocast(device, AMP, enabled=amp):
                value = loss()
            value.backward()
            return value.detach()

        return call

    calls: Calls = {
        "fastseg": step(model, lambda: model.loss(x, target)),
        "eager": step(plain, lambda: plain_loss(plain)),
    }
    if compiled:
        other = copy.deepcopy(plain)
        network = torch.compile(other)
        calls["torch.compile"] = step(other, lambda: plain_loss(network))
    return calls, step(plain, lambda: plain_loss(plain), amp=False)


def _other_labels(labels: torch.Tensor, expected: torch.Tensor) -> float:
    return float((labels != expected).double().mean())


def _relative(loss: torch.Tensor, expected: torch.Tensor) -> float:
    return float((loss - expected).abs() / expected.abs())
