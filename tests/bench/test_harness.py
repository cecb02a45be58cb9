"""The benchmark harness: right results are timed, wrong ones never."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fastseg import upsample_bilinear
from fastseg.bench import Ceilings, Settings, WrongResult, harness, make_cases, rate, run_case
from fastseg.bench.cases import DTYPES, FORWARD_OUT, all_samples, as_word
from fastseg.testing import OpSamples, Workload


def cases(samples: OpSamples, direction: str, dtype: torch.dtype = torch.float32) -> list[Any]:
    made = make_cases("op", samples, "cpu", dtypes=[dtype])
    return [case for case in made if case.direction == direction]


@pytest.mark.parametrize("direction", ["forward", FORWARD_OUT, "backward", "forward+backward"])
@pytest.mark.parametrize("dtype", DTYPES["cpu"], ids=str)
def test_row(tiny: OpSamples, brief: Settings, direction: str, dtype: torch.dtype) -> None:
    (case,) = cases(tiny, direction, dtype)
    row = run_case(case, brief)
    assert row["checked"] and not row["left_out"]
    found = {(v["kind"], v["layout"]) for v in row["variants"]}
    layouts = ("NCHW", "channels_last")
    assert found == {(kind, layout) for kind in ("fastseg", "eager") for layout in layouts}
    assert all(v["min_s"] <= v["median_s"] for v in row["variants"])
    best = {
        kind: min(v["median_s"] for v in row["variants"] if v["kind"] == kind)
        for kind in ("fastseg", "eager")
    }
    assert row["speedup"]["eager"] == pytest.approx(best["eager"] / best["fastseg"])
    assert row["result_buffer"] == ("reused" if direction == FORWARD_OUT else "fresh")
    item = dtype.itemsize
    backward_bytes = (3 * 5 * 6 + 3 * 9 * 11) * item  # writes grad_x, reads grad_out
    forward_bytes = {"backward": 0}.get(direction, 1000)
    assert row["bytes"] == forward_bytes + ("backward" in direction) * backward_bytes
    assert row["flops"] == (4000 if direction == "forward+backward" else 2000)


@pytest.mark.slow
def test_compile_is_a_peer(tiny: OpSamples) -> None:
    (case,) = cases(tiny, "forward")
    row = run_case(case, Settings(budget_s=0.0, min_rounds=1, memory=False))
    if row["left_out"]:
        pytest.skip(f"torch.compile does not work here: {row['left_out']}")
    assert "compile" in row["speedup"]


def refused(samples: OpSamples, direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a wrong result was timed")

    monkeypatch.setattr(harness, "time_interleaved", never)
    monkeypatch.setattr(harness, "peak_extra_bytes", never)
    with pytest.raises(WrongResult):
        run_case(cases(samples, direction)[0], Settings(compile=False))


def test_wrong_result_is_refused(tiny: OpSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(**arguments: Any) -> torch.Tensor:
        return upsample_bilinear(**arguments) + 1e-5

    refused(dataclasses.replace(tiny, function=wrong), "forward", monkeypatch)


def test_wrong_gradient_is_refused(tiny: OpSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * 1.001

    def function(x: torch.Tensor, **arguments: Any) -> torch.Tensor:
        return upsample_bilinear(Wrong.apply(x), **arguments)

    samples = dataclasses.replace(tiny, function=function)
    for direction in ("backward", "forward+backward"):
        refused(samples, direction, monkeypatch)


def test_wrong_layout_only_is_refused(tiny: OpSamples, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(x: torch.Tensor, **arguments: Any) -> torch.Tensor:
        result = upsample_bilinear(x, **arguments)
        return result if x.is_contiguous() else result.flip(3)

    refused(dataclasses.replace(tiny, function=wrong), "forward", monkeypatch)


def integer_samples(tiny: OpSamples, wrong: int) -> OpSamples:
    """argmax over classes; the function gets `wrong` labels wrong."""

    def inputs(make: Any, memory_format: Any) -> dict[str, Any]:
        return {"x": make.map(1, 4, 20, 20).contiguous(memory_format=memory_format)}

    def function(x: torch.Tensor) -> torch.Tensor:
        labels = x.argmax(1).to(torch.uint8)
        labels.view(-1)[:wrong] ^= 1
        return labels

    workload = Workload("labels", inputs, lambda _: 1, lambda _: 1, ("forward",))
    return dataclasses.replace(
        tiny,
        function=function,
        peer=lambda x: x.argmax(1),
        peer_out=None,
        differentiable=(),
        cpu_workloads=(workload,),
    )


def test_labels(tiny: OpSamples, brief: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = cases(integer_samples(tiny, wrong=0), "forward")
    assert run_case(case, brief)["checked"]
    refused(integer_samples(tiny, wrong=2), "forward", monkeypatch)


def test_an_op_can_bring_its_own_comparison(
    tiny: OpSamples, brief: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(inputs: dict[str, Any], result: torch.Tensor) -> None:
        assert (result.long() == inputs["x"].argmax(1)).all(), "other labels"

    good = dataclasses.replace(integer_samples(tiny, wrong=0), compare=compare)
    assert run_case(cases(good, "forward")[0], brief)["checked"]
    refused(
        dataclasses.replace(good, function=integer_samples(tiny, wrong=1).function),
        "forward",
        monkeypatch,
    )


def test_bad_peer_is_left_out(tiny: OpSamples, brief: Settings) -> None:
    def fails(**arguments: Any) -> torch.Tensor:
        raise RuntimeError("no kernel\nfor this")

    def inaccurate(x: torch.Tensor, size: Any, align_corners: bool) -> torch.Tensor:
        return F.interpolate(x, size, mode="nearest")

    samples = dataclasses.replace(tiny, other_peers={"broken": fails, "nearest": inaccurate})
    (case,) = cases(samples, "forward")
    row = run_case(case, brief)
    assert row["left_out"]["broken NCHW"] == "RuntimeError: no kernel for this"
    assert "WrongResult" in row["left_out"]["nearest channels_last"]
    assert set(row["speedup"]) == {"eager"}


def test_rate_takes_the_nearer_ceiling() -> None:
    row = {"gb_per_s": 5.0, "gflop_per_s": 80.0}
    rate(row, Ceilings(copy_bytes_per_s=10e9, flops_per_s=100e9))
    assert row["bound"] == "arithmetic" and row["fraction_of_ceiling"] == pytest.approx(0.8)
    rate(row, Ceilings(copy_bytes_per_s=5e9, flops_per_s=100e9))
    assert row["bound"] == "memory" and row["fraction_of_ceiling"] == pytest.approx(1.0)


def test_every_op_has_workloads() -> None:
    for op, samples in all_samples().items():
        assert samples.cpu_workloads and samples.gpu_workloads, op
        for quick in (True, False):
            assert make_cases(op, samples, "cpu", quick=quick), op
        dtypes = {case.dtype for case in make_cases(op, samples, "cpu")}
        assert torch.float16 not in dtypes


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_are_words_of_pytests_k(device: str) -> None:
    """Each selects its case; a longer name may contain a shorter one."""
    from _pytest.mark.expression import Expression

    every = [
        as_word(case)
        for op, samples in all_samples().items()
        for case in make_cases(op, samples, device)
    ]
    assert len(set(every)) == len(every) > 20
    for name in every:
        selected = Expression.compile(name)
        found = [other for other in every if selected.evaluate(lambda part, o=other: part in o)]
        assert name in found and all(name in other for other in found)
