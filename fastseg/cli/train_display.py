"""What a terminal shows of a training run."""

from __future__ import annotations

import math

from ..engine.processes import Processes
from ..metrics import Scores
from . import console
from .joined import say


class Display:
    """Shows a progress bar on a terminal; elsewhere prints one line per validation."""

    def __init__(self, iterations: int, processes: Processes) -> None:
        self._processes = processes
        fields = "loss {task.fields[loss]}  mIoU {task.fields[miou]}"
        self._bar = console.progress(fields, shown=processes.first)
        self._task = self._bar.add_task("training", total=iterations, loss="-", miou="-")
        self._loss: float | None = None

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, iteration: int, best: float) -> None:
        miou = "-" if math.isnan(best) else f"{100 * best:.1f} %"
        self._bar.update(self._task, completed=iteration, miou=miou)

    def step(self, iteration: int, loss: float, lr: float) -> None:
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._bar.update(
            self._task, completed=iteration, loss=f"{self._loss:.3f}", description="training"
        )

    def validating(self, done: int, total: int) -> None:
        self._bar.update(self._task, description=f"validating {done}/{total}")

    def validated(self, iteration: int, result: Scores) -> None:
        self._bar.update(self._task, miou=f"{100 * result.miou:.1f} %", description="training")
        loss = "" if self._loss is None else f"loss {self._loss:.4f}  "
        say(
            self._processes,
            f"iteration {iteration}  {loss}mIoU {100 * result.miou:.2f}  mAcc "
            f"{100 * result.macc:.2f}  aAcc {100 * result.aacc:.2f}",
        )
