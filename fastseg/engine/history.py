"""Losses and validations of a run, written as metrics.json and drawn as a curve."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from .._files import written_whole
from ..metrics import Scores
from ..models.description import Description
from .config import TrainConfig

METRICS, CURVE = "metrics.json", "curve.png"
_POINTS = 500  # most points of the loss curve


@dataclasses.dataclass
class History:
    """The loss of every step, and the scores of every validation in `Scores.as_json`'s form."""

    losses: list[float] = dataclasses.field(default_factory=list)
    validations: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def best(self) -> float:
        """Highest mIoU of the validations, NaN without any."""
        return max((v["mIoU"] for v in self.validations if v["mIoU"] is not None), default=math.nan)

    def add(self, iteration: int, result: Scores, names: tuple[str, ...]) -> None:
        self.validations.append({"iteration": iteration, **result.as_json(names)})

    def as_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "validations": list(self.validations)}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> History:
        return History(list(stored["losses"]), list(stored["validations"]))

    def smoothed(self) -> tuple[list[int], list[float]]:
        """Some of the steps, and the mean loss between each and the one before."""
        count = len(self.losses)
        ends = numpy.unique(numpy.linspace(0, count, min(count, _POINTS) + 1).astype(int))
        means = [float(numpy.mean(self.losses[a:b])) for a, b in itertools.pairwise(ends)]
        return ends[1:].tolist(), means


def write(out: Path, history: History, config: TrainConfig, description: Description) -> None:
    """Writes metrics.json, and the curve if matplotlib is installed."""
    steps, means = history.smoothed()
    best = history.best
    content = {
        "model": description.architecture,
        "encoder": description.encoder,
        "options": dict(description.options),
        "classes": list(description.classes.names),
        "config": config.as_json(),
        "iteration": len(history.losses),
        "best_mIoU": None if math.isnan(best) else best,
        "loss": {"iteration": steps, "mean": [_finite(mean) for mean in means]},
        "validation": history.validations,
    }
    with written_whole(out / METRICS, durable=True) as file:
        file.write(json.dumps(content, indent=1, allow_nan=False).encode())
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    _draw(out / CURVE, history, config)


def _finite(value: float) -> float | None:
    """A number as JSON has it, which knows no infinity."""
    return value if math.isfinite(value) else None


def _draw(path: Path, history: History, config: TrainConfig) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    red, blue, faint = "#d1495b", "#2f6bff", "#dddddd"
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, means = history.smoothed()
    axes.plot(steps, means, color=red, alpha=0.35, linewidth=0.8)
    axes.plot(steps, _running_mean(means, max(1, len(means) // 25)), color=red, linewidth=1.8)
    axes.set_xlabel("iteration")
    axes.set_ylabel("training loss", color=red)
    axes.set_xlim(0, config.iterations)
    finite = [mean for mean in means if math.isfinite(mean)] or [1.0]
    axes.set_ylim(0, max(1e-6, 1.05 * float(numpy.quantile(finite, 0.99))))
    axes.grid(color=faint, linewidth=0.6)
    points = [(v["iteration"], v["mIoU"]) for v in history.validations if v["mIoU"] is not None]
    if points:
        right = axes.twinx()
        right.plot(*zip(*points, strict=True), color=blue, marker="o", markersize=3)
        right.set_ylabel("validation mIoU", color=blue)
        right.set_ylim(0, 1)
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
        where, best = max(points, key=lambda point: point[1])
        right.annotate(
            f"{100 * best:.1f} %", (where, best), (0, 8), textcoords="offset points", color=blue,
            ha="right" if where > 0.9 * config.iterations else "center",
        )  # fmt: skip
    axes.spines["top"].set_visible(False)
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=150)


def _running_mean(values: list[float], width: int) -> list[float]:
    """The mean of each value and up to width - 1 before it."""
    sums = numpy.concatenate([[0.0], numpy.cumsum(values)])
    ends = numpy.arange(1, len(values) + 1)
    starts = numpy.maximum(0, ends - width)
    return ((sums[ends] - sums[starts]) / (ends - starts)).tolist()
