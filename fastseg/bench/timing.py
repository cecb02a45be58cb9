"""The clock: interleaved rounds of all variants; every sample is kept, medians are reported.

Interleaving means that a slow phase of the machine hits all variants alike. On a CPU a sample is
the wall-clock time of one call (the process time beside it tells preemption apart from work). On a
GPU it is the time between two events on the stream: before the first one the L2 cache is filled by
reading (written lines would be written back within the sample), and a short device-side wait lets
the host enqueue the whole call, so that the sample is device time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy
import torch

from .._private_torch import occupy_device

WARM_UP_CALLS = 1  # the check has run every variant already
MAX_ROUNDS = 200
# A variant much faster than the slowest one is sampled several times a round.
MAX_REPEATS = 5
FLUSH_BYTES = 256 << 20  # several times the largest L2 cache
# About two milliseconds: a training step of a CRF is 150 launches.
HOST_HEAD_START_CYCLES = 4_000_000


@dataclasses.dataclass(frozen=True)
class Variant:
    """A callable to time: `run(setup())`, of which only `run` is timed."""

    label: str
    run: Callable[[Any], Any]
    setup: Callable[[], Any] = lambda: None


@dataclasses.dataclass(frozen=True)
class Timing:
    """The samples of one variant in seconds; `process_seconds` only on a CPU (user + system)."""

    seconds: tuple[float, ...]
    process_seconds: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return float(numpy.median(self.seconds))

    def summary(self) -> dict[str, float | int]:
        """Median, quartiles, minimum and number of samples, ready for JSON."""
        first, third = (float(q) for q in numpy.percentile(self.seconds, (25, 75)))
        result: dict[str, float | int] = {
            "median_s": self.median,
            "q1_s": first,
            "q3_s": third,
            "min_s": min(self.seconds),
            "samples": len(self.seconds),
        }
        if self.process_seconds:
            result["process_median_s"] = float(numpy.median(self.process_seconds))
        return result


class _CpuClock:
    def __init__(self) -> None:
        self._samples: dict[str, list[tuple[float, float]]] = {}

    def sample(self, variant: Variant) -> None:
        state = variant.setup()
        process, wall = time.process_time(), time.perf_counter()
        result = variant.run(state)
        wall, process = time.perf_counter() - wall, time.process_time() - process
        del result  # freeing the result is not part of the sample
        self._samples.setdefault(variant.label, []).append((wall, process))

    def finish_round(self) -> None:
        pass

    def timing(self, label: str) -> Timing:
        wall, process = zip(*self._samples[label], strict=True)
        return Timing(wall, process)


class _GpuClock:
    def __init__(self) -> None:
        self._flush = torch.zeros(FLUSH_BYTES // 4, device="cuda")
        self._sum = torch.zeros((), device="cuda")
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._samples: dict[str, list[float]] = {}

    def sample(self, variant: Variant) -> None:
        state = variant.setup()
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.sum(self._flush, 0, out=self._sum)
        occupy_device(HOST_HEAD_START_CYCLES)
        start.record()
        result = variant.run(state)
        end.record()
        del result
        self._pending.append((variant.label, start, end))

    def finish_round(self) -> None:
        torch.cuda.synchronize()
        for label, start, end in self._pending:
            self._samples.setdefault(label, []).append(start.elapsed_time(end) / 1e3)
        self._pending.clear()

    def timing(self, label: str) -> Timing:
        return Timing(tuple(self._samples[label]))


def time_interleaved(
    variants: Sequence[Variant], *, device: str, budget_s: float, min_rounds: int
) -> dict[str, Timing]:
    """Times all variants in turn, round after round, each round beginning with another one.

    Args:
        variants: with distinct labels.
        device: "cpu" or "cuda".
        budget_s: no round begins after this many seconds, once there were min_rounds.
        min_rounds: at least this many samples of each variant.

    Returns:
        Label -> Timing.
    """
    estimates = {v.label: _warm_up(v, device) for v in variants}
    slowest = max(estimates.values())
    repeats = {
        label: int(min(MAX_REPEATS, max(1.0, slowest / 4 / max(seconds, 1e-9))))
        for label, seconds in estimates.items()
    }
    clock = _GpuClock() if device == "cuda" else _CpuClock()
    with _no_garbage_collection():
        begin = time.perf_counter()
        for round_ in range(MAX_ROUNDS):
            if round_ >= min_rounds and time.perf_counter() - begin > budget_s:
                break
            first = round_ % len(variants)
            for variant in (*variants[first:], *variants[:first]):
                for _ in range(repeats[variant.label]):
                    clock.sample(variant)
            clock.finish_round()
    return {v.label: clock.timing(v.label) for v in variants}


def _warm_up(variant: Variant, device: str) -> float:
    """Runs the variant untimed; returns the seconds that the last sample took, setup included."""
    seconds = 0.0
    for _ in range(WARM_UP_CALLS):
        begin = time.perf_counter()
        variant.run(variant.setup())
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begin
    return seconds


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
