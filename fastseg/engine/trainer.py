"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .._messages import shortened
from ..data import IGNORE, Augmentation, Batch, Batches, Sampler, Split
from ..metrics import Scores, scores
from ..models import SegmentationModel
from ..models.base import of_bands
from ..models.description import Description
from ..nn.losses import CombinedLoss, parse_loss
from ..nn.sync_batch_norm import synchronised
from . import checkpoint, history
from .config import TrainConfig, loss_mode
from .evaluate import evaluate
from .optim import Averaged, class_weights, learning_rate, make_optimizer, restore
from .processes import Processes, data_parallel
from .run_folder import BEST, LAST, MODEL, PREVIOUS, FolderLock, locked
from .step import TrainingStep, parts, weight_of


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; the final weights do not depend on it, up to rounding.

    Attributes:
        out: folder of checkpoints, metrics and curve.
        accumulate: parts of a batch that each process computes one after the other.
        threads: number of threads that make batches ahead of time.
        validate_every: steps between validations.
        checkpoint_seconds: time between checkpoints, besides those after validations.
        time_limit: seconds after which a checkpoint is written and the run ends; None is no limit.
    """

    out: Path
    accumulate: int = 1
    threads: int = 0
    validate_every: int = 500
    checkpoint_seconds: float = 300.0
    time_limit: float | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        iteration: steps done.
        stopped: why it ended before its last step, "" if it did not.
        signal: number of the signal that ended it, or 0.
        best: highest validation mIoU, NaN without a validation.
    """

    iteration: int
    stopped: str
    signal: int
    best: float


class Reporter(Protocol):
    """Receives the progress, in the first process."""

    def step(self, iteration: int, loss: float, lr: float) -> None: ...

    def validating(self, done: int, total: int) -> None: ...

    def validated(self, iteration: int, result: Scores) -> None: ...


class TrainingError(Exception):
    """A run that cannot go on; the message says why."""


class Trainer:
    """Trains a model to the same weights, bit for bit, with and without interruptions.

    Everything random in a step depends on the seed and the number of the step alone, so that a
    checkpoint needs no state of random generators and fits any number of processes.
    """

    def __init__(
        self,
        model: SegmentationModel,
        description: Description,
        train: Split,
        validation: Split | None,
        config: TrainConfig,
        options: RunOptions,
        reporter: Reporter,
        *,
        processes: Processes | None = None,
        device: torch.device | None = None,
        lock: FolderLock | None = None,
    ) -> None:
        """Moves the model to the device.

        Args:
            lock: of the folder, where the caller holds it already; by default `run` takes it.

        Raises:
            TrainingError: a batch cannot be divided over processes and parts.
        """
        self.processes = processes or Processes()
        self.device = device or torch.device("cpu")
        self.description, self.config, self.options = description, config, options
        self.reporter = reporter
        self.validation = validation
        self._lock = lock
        share, rest = divmod(config.batch_size, self.processes.count * options.accumulate)
        if rest:
            raise TrainingError(
                f"a batch of {config.batch_size} images cannot be divided over "
                f"{self.processes.count} processes and {options.accumulate} accumulated parts"
            )
        self._share = share * options.accumulate
        weights = class_weights(train, config.class_weights)
        self._class_weights = weights
        model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.processes.count > 1:
            model = _with_synchronised_norms(model, self.device)
        self.model = model
        self.averaged = Averaged(self.model, config.ema) if config.ema else None
        criterion = _criterion(config, self.model, weights, self.processes)
        step = TrainingStep(self.model, weights, config.label_smoothing, criterion).to(self.device)
        self._step: nn.Module = step
        if self.processes.count > 1:
            self._step = data_parallel(step)
        self.optimizer = make_optimizer(self.model, config)
        augmentation = Augmentation(
            config.crop,
            config.working_size,
            config.scale,
            fill=_fill(model),
            **{
                name: config.color * getattr(Augmentation, name)
                for name in ("brightness", "contrast", "saturation", "hue")
            },
        )
        sampler = Sampler(len(train), config.seed)
        self._batches = Batches(train, augmentation, sampler, threads=options.threads)
        self.iteration = 0
        self.stored_iterations = config.iterations  # of the run that is continued
        self.history = history.History()
        self._pending: list[torch.Tensor] = []
        self._wanted_signal = 0

    def resume(self, path: Path) -> None:
        """Continues from a checkpoint of this run.

        Raises:
            checkpoint.CheckpointError: it cannot be read, or is of another run.
        """
        self._continue(path, checkpoint.load_run(path))

    def resume_latest(self) -> str:
        """Continues from the last checkpoint in the folder that can be read.

        Returns:
            What is wrong with the last one where it is the one before, else "".

        Raises:
            checkpoint.CheckpointError: none can be read, or it is of another run.
        """
        path, state, problem = checkpoint.load_latest(self.options.out)
        self._continue(path, state)
        return problem

    def _continue(self, path: Path, state: dict[str, Any]) -> None:
        try:
            stored = TrainConfig.from_json(state["config"])
            differences = self.config.differences(stored)
            if state["description"].as_dict() != _as_stored(self.description):
                differences.append("the model or the classes are others")
            if differences:
                raise checkpoint.CheckpointError(
                    f"{path}: is of another run: {'; '.join(differences)}"
                )
            if state["iteration"] > self.config.iterations:
                raise checkpoint.CheckpointError(
                    f"{path}: {state['iteration']} iterations are done, but the run is to have "
                    f"{self.config.iterations}"
                )
            self.model.load_state_dict(state["weights"])
            if self.averaged:
                self.averaged.model.load_state_dict(state["averaged"])
            restore(self.optimizer, state["optimizer"]["state"])
        except (AttributeError, KeyError, TypeError, RuntimeError, ValueError) as error:
            raise checkpoint.CheckpointError(
                f"{path}: not written by this version of fastseg train ({shortened(error)})"
            ) from error
        self.stored_iterations = stored.iterations
        self.history = history.History.from_dict(state["history"])
        self.iteration = state["iteration"]

    def run(self) -> Outcome:
        """Trains to the last step, or until a signal or the time limit.

        In every case the folder then holds a checkpoint, metrics.json and the curve.

        Raises:
            TrainingError: the loss is not finite.
            FolderError: another run writes to the folder.
            OSError: the folder cannot be written to.
        """
        if not self.processes.first:
            return self._run()
        with locked(self._lock, self.options.out):
            return self._run()

    def _run(self) -> Outcome:
        began = saved = time.monotonic()
        stopped = ""
        self.model.train()
        positions = (self._positions(i) for i in range(self.iteration, self.config.iterations))
        with self._listening(), warnings.catch_warnings():
            # Strides of depthwise weights in channels_last have two equal forms.
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            for batch in self._batches.stream(positions):
                total, stopped = self._agree(batch, began)
                if stopped:
                    break
                self._train(batch, total)
                self.iteration += 1
                if self._validation_is_due():
                    self._validate()
                    self.save()
                    saved = time.monotonic()
                elif time.monotonic() - saved > self.options.checkpoint_seconds:
                    self.save()
                    saved = time.monotonic()
            else:
                stopped = ""
        self._flush()
        self.save()
        self.processes.wait()
        return Outcome(self.iteration, stopped, self._wanted_signal, self.history.best)

    def _positions(self, iteration: int) -> range:
        """Numbers of the samples of a step that this process takes."""
        first = iteration * self.config.batch_size + self.processes.rank * self._share
        return range(first, first + self._share)

    def _agree(self, batch: Batch, began: float) -> tuple[float, str]:
        """Agrees with the other processes on the weight of the batch, and on whether to stop.

        The loss is a mean over all pixels of the batch, so processes (and parts) are weighted by
        the pixels that count in their images.
        """
        limit = self.options.time_limit
        late = limit is not None and time.monotonic() - began >= limit
        own = torch.tensor(
            [weight_of(batch.labels, self._class_weights), self._wanted_signal > 0, late],
            dtype=torch.float64,
        )
        total, by_signal, by_time = self.processes.sum(own).tolist()
        if by_signal:
            name = signal.Signals(self._wanted_signal).name if self._wanted_signal else "a signal"
            return total, f"by {name}"
        return total, "by the time limit" if by_time else ""

    def _train(self, batch: Batch, total: float) -> None:
        """One step of the optimizer."""
        config = self.config
        _seed_step(config.seed, self.iteration, self.processes.rank)
        rate = learning_rate(config, self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = torch.zeros((), device=self.device)
        pieces = parts(batch, self.options.accumulate)
        for index, piece in enumerate(pieces):
            weight = weight_of(piece.labels, self._class_weights)
            # Data-parallel training divides the sum of the gradients by the number of processes.
            share = self.processes.count * weight / total if total else 0.0
            with contextlib.ExitStack() as stack:
                if isinstance(self._step, DistributedDataParallel) and index + 1 < len(pieces):
                    stack.enter_context(self._step.no_sync())
                stack.enter_context(
                    torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16)
                )
                tensors = (piece.images, piece.labels, piece.colors)
                part = self._step(*(t.to(self.device, non_blocking=True) for t in tensors), share)
            part.backward()
            if weight:  # the loss of no pixels is NaN, its gradient zero
                loss += part.detach()
        if config.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.averaged:
            self.averaged.update(self.iteration)
        self._pending.append(loss)
        # Reading the loss on a GPU waits for the step, so it is not done every time.
        if self.device.type == "cpu" or len(self._pending) == 20:
            self._flush()

    def _flush(self) -> None:
        """Moves the losses of the last steps into the history."""
        if not self._pending:
            return
        losses = self.processes.sum(torch.stack(self._pending)) / self.processes.count
        self._pending = []
        self.history.losses += losses.tolist()
        last = self.history.losses[-1]
        if not math.isfinite(last):
            raise TrainingError(
                f"the loss is {last} at step {len(self.history.losses)}: try a lower learning "
                "rate, a longer warmup or a limit to the gradient"
            )
        if self.processes.first:
            rate = learning_rate(self.config, self.iteration)
            self.reporter.step(len(self.history.losses), last, rate)

    def _validation_is_due(self) -> bool:
        if self.validation is None:
            return False
        end = self.iteration == self.config.iterations
        return end or self.iteration % self.options.validate_every == 0

    def _validate(self) -> None:
        assert self.validation is not None
        self._flush()
        model = self.averaged.model if self.averaged else self.model
        matrix = evaluate(
            model,
            self.validation,
            working_size=self.config.working_size,
            processes=self.processes,
            progress=self.reporter.validating if self.processes.first else None,
            bf16=self.config.bf16,
        )
        self.model.train()
        result = scores(matrix)
        better = not result.miou <= self.history.best
        self.history.add(self.iteration, result, self.description.classes.names)
        if self.processes.first:
            if better:
                self._save_best(model)
            self.reporter.validated(self.iteration, result)

    def _save_best(self, model: SegmentationModel) -> None:
        out = self.options.out
        state = {"weights": model.state_dict(), "averaged": None, "iteration": self.iteration}
        checkpoint.save(out / BEST, {"description": self.description.as_dict(), **state})
        if importlib.util.find_spec("safetensors") is not None:
            model.save_pretrained(out / MODEL)

    def save(self) -> None:
        """Writes the checkpoint, the metrics and the curve, in the first process."""
        self._flush()
        if not self.processes.first:
            return
        out = self.options.out
        state: dict[str, Any] = {
            "description": self.description.as_dict(),
            "config": self.config.as_json(),
            "iteration": self.iteration,
            "weights": self.model.state_dict(),
            "averaged": self.averaged.model.state_dict() if self.averaged else None,
            "optimizer": self.optimizer.state_dict(),
            "history": self.history.as_dict(),
        }
        checkpoint.save(out / LAST, state, out / PREVIOUS)
        if self.history.losses:
            history.write(out, self.history, self.config, self.description)

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the run after the step that they arrive in."""

        def heard(number: int, _: Any) -> None:
            self._wanted_signal = number

        # A second signal changes nothing: Ctrl-C comes from the terminal and from torchrun.
        before = {s: signal.signal(s, heard) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _as_stored(description: Description) -> dict[str, Any]:
    """A description as it comes back from a file."""
    return Description.from_dict(description.as_dict()).as_dict()


def _with_synchronised_norms(model: SegmentationModel, device: torch.device) -> SegmentationModel:
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return synchronised(model)  # type: ignore[return-value]


def _seed_step(seed: int, iteration: int, rank: int) -> None:
    """Makes dropout depend on the step alone, not on earlier random numbers."""
    state = numpy.random.SeedSequence((seed, 2, iteration, rank)).generate_state(1, numpy.uint64)
    torch.manual_seed(int(state[0] >> numpy.uint64(1)))


def _fill(model: SegmentationModel) -> tuple[int, ...]:
    """The mean of each band, as the images have it."""
    mean = of_bands("mean", model.mean, model.in_channels)
    return tuple(min(255, max(0, round(255 * value))) for value in mean)


def _criterion(
    config: TrainConfig,
    model: SegmentationModel,
    weights: torch.Tensor | None,
    processes: Processes,
) -> CombinedLoss | None:
    """The loss of `config` where it is not plain cross-entropy; its sums are over all processes.

    Raises:
        TrainingError: the model has too many classes for it.
    """
    if config.loss == "ce":
        return None
    mode = loss_mode(config.loss)
    classes = len(model.classes)
    if mode == "binary" and classes != 1:
        raise TrainingError(
            f"loss is {config.loss!r}, but bce is of one class and the model has {classes}: use ce"
        )
    return parse_loss(
        config.loss,
        mode,
        IGNORE,
        weights,
        config.label_smoothing,
        process_group=True if processes.count > 1 else None,
    )
