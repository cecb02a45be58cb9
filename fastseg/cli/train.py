"""`fastseg train`: a model from a folder of images and label maps."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .._files import check_folder
from ..data import check_sense, open_data_set
from ..engine.architectures import load_model, start_from
from ..engine.config import CLASS_WEIGHTS, OPTIMIZERS, TrainConfig
from ..engine.processes import Processes
from ..engine.run_folder import BEST, LAST, PREVIOUS, write_options
from ..engine.trainer import Outcome, RunOptions, Trainer
from ..models.architectures import takes_encoder
from ..models.description import ARCHITECTURES, Description
from . import console
from .console import reason
from .datasets import (
    bands_of,
    cache_bytes,
    files_of,
    labelling_for,
    local_count,
    options_of,
    read_split,
    split_of,
)
from .devices import device_named
from .joined import Failure, joined, say
from .options import (
    Bf16,
    Device,
    Ignore,
    LabelMap,
    LabelsDrawn,
    Layout,
    MaxPixels,
    Threads,
    TrustLabels,
    Void,
)
from .outputs import files_in
from .resuming import check_given, options_to_record
from .train_display import Display
from .train_folder import claim, found_run, own_folder


def train(
    ctx: typer.Context,
    dataset: Annotated[
        Path,
        typer.Argument(
            help="Folder with images/ and labels/, PASCAL VOC, Cityscapes, ADE20K, COCO, CamVid, "
            "NAME.jpg beside NAME_mask.png, or a csv file (see --layout); classes.json is optional."
        ),
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", help=f"One of {', '.join(ARCHITECTURES)}.")
    ] = "deeplabv3plus",
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="See `fastseg models`; some models have none.")
    ] = "mobilenet_v2",
    model_options: Annotated[
        list[str] | None,
        typer.Option(
            "--model-option",
            help="NAME=VALUE, an argument of the model's constructor, VALUE as JSON: "
            "decoder_atrous_rates=[3,6,9]. May be given several times.",
        ),
    ] = None,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for checkpoints, metrics.json, curve.png.")
    ] = Path("trained"),
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in --out with its own options, which need not be given again; "
            "--epochs or --iterations may make it longer.",
        ),
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Weights to start from; those that fit are taken.")
    ] = None,
    encoder_weights: Annotated[
        str | None,
        typer.Option(help="'imagenet' (from the Hugging Face hub) or a file. Default: random."),
    ] = None,
    working_size: Annotated[
        int, typer.Option(min=1, help="Pixels of an image's longer side at scale 1.")
    ] = 512,
    crop: Annotated[
        tuple[int, int], typer.Option(help="Height and width of the crops that the network sees.")
    ] = (352, 480),
    scale_range: Annotated[
        tuple[float, float], typer.Option(help="Range of the random scale of an image.")
    ] = (0.5, 2.0),
    color: Annotated[
        float, typer.Option(help="Strength of the random colour changes; 0 is none.")
    ] = 1.0,
    epochs: Annotated[
        float | None, typer.Option(help="Length of the run. Default: 100, or --iterations.")
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(help="Length of the run in optimizer steps.")
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="Images per optimizer step, over all processes and parts.")
    ] = 8,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Parts in which each process computes its share of a batch.")
    ] = 1,
    lr: Annotated[float, typer.Option(help="Learning rate after the warmup.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help=f"One of {', '.join(OPTIMIZERS)}.")] = "adamw",
    weight_decay: Annotated[
        float, typer.Option(help="Weight decay; biases and norms have none.")
    ] = 0.01,
    power: Annotated[
        float,
        typer.Option(help="Exponent of the poly schedule: lr * (1 - i / iterations) ** power."),
    ] = 0.9,
    warmup: Annotated[int, typer.Option(help="Steps of linear warmup.")] = 100,
    clip: Annotated[
        float, typer.Option(help="Norm to which gradients are clipped; 0: no limit.")
    ] = 0.0,
    ema: Annotated[
        float, typer.Option(help="Decay of the averaged weights, which best.pt keeps; 0: none.")
    ] = 0.998,
    class_weights: Annotated[
        str, typer.Option(help=f"Class weights of the loss: one of {', '.join(CLASS_WEIGHTS)}.")
    ] = "none",
    label_smoothing: Annotated[
        float, typer.Option(help="Share of each label spread over all classes.")
    ] = 0.0,
    loss: Annotated[
        str,
        typer.Option(
            help="ce, bce, dice, jaccard, tversky, focal, joined by '+', perhaps with weights: "
            "ce+0.5*dice. Class weights and smoothing are of ce."
        ),
    ] = "ce",
    bf16: Bf16 = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: Device = "auto",
    threads: Threads = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Threads that prepare images. Default: 0 on CPUs, else up to 8."),
    ] = None,
    cache_gb: Annotated[
        float | None,
        typer.Option(min=0, help="Memory for decoded images. Default: a quarter of the machine's."),
    ] = None,
    max_pixels: MaxPixels = None,
    layout: Layout = None,
    void: Void = None,
    label_map: LabelMap = None,
    labels_drawn: LabelsDrawn = "auto",
    trust_labels: TrustLabels = False,
    ignore: Ignore = None,
    train_split: Annotated[str, typer.Option(help="Name of the training split.")] = "train",
    val_split: Annotated[str, typer.Option(help="Name of the validation split.")] = "val",
    validate_every: Annotated[
        int, typer.Option(min=1, help="Optimizer steps between validations.")
    ] = 500,
    time_limit: Annotated[
        float | None, typer.Option(help="Minutes after which a checkpoint ends the run.")
    ] = None,
) -> None:
    """Train a segmentation model on a folder of images and label maps.

    Writes best.pt (the weights of the best validation), last.pt (all that --resume needs),
    metrics.json and curve.png. A signal (SIGTERM, Ctrl-C) or the time limit ends the run after a
    checkpoint, and `fastseg train --resume --out FOLDER` continues it, from the checkpoint before
    (previous.pt) if the last is damaged. A run that is made longer goes on with the learning rates
    of a run of the new length. On several GPUs or processes:
    `torchrun --nproc-per-node N -m fastseg train DATASET`.
    """
    check_given(ctx)
    if threads is not None:
        torch.set_num_threads(threads)
    with (
        joined(device_named(device)) as (processes, own_device),
        contextlib.ExitStack() as stack,
    ):
        if epochs is not None and iterations is not None:
            raise Failure("give --epochs or --iterations, not both")
        if epochs is not None and not epochs > 0:
            raise Failure(f"--epochs is {epochs:g}, expected more than 0")
        if time_limit is not None and not time_limit > 0:
            raise Failure(f"--time-limit is {time_limit:g} minutes, expected more than 0")
        check_folder("--out", out_dir)
        lock = stack.enter_context(own_folder(out_dir, processes))
        resuming = found_run(out_dir, resume)
        if resume and not resuming:
            say(processes, f"{out_dir} has no checkpoint yet: the run begins with its first step")
        label_options = options_of(void, label_map, labels_drawn, trust_labels, ignore)
        found = open_data_set(dataset, layout)
        train_split = split_of(found, train_split)
        of_validation = found.split(val_split)
        if of_validation == train_split:
            of_validation = None
        named = (dataset, init, Path(encoder_weights or ""))
        inputs = [path for path in named if path is not None and path.is_file()]
        inputs += files_in(label_map)
        files = [file for pairs in found.splits.values() for file in files_of(pairs)]
        claim(out_dir, inputs, files)
        used = [train_split] if of_validation is None else [train_split, of_validation]
        labelling, lines = labelling_for(found, used, label_options, processes)
        bands = bands_of(found.splits[train_split])
        cache = cache_bytes(cache_gb, processes)
        data = {}
        for name in used:
            data[name] = read_split(name, found.splits[name], labelling, processes, cache, bands)
            cache -= data[name].cached_bytes
        check_sense([data[train_split]], label_options)
        about = dict.fromkeys(note for name in used for note in data[name].notes)
        say(processes, "; ".join((found.line(used), *lines, *about)))
        if bands != 3:
            say(processes, f"the images have {bands} bands; their mean and deviation are computed")
        if of_validation is None:
            say(processes, f"no split {val_split!r}: nothing is validated, {BEST} is not written")

        try:
            config = TrainConfig(
                iterations=iterations
                if iterations is not None
                else _steps(epochs or 100, len(data[train_split]), batch_size),
                batch_size=batch_size,
                crop=crop,
                working_size=working_size,
                scale=scale_range,
                color=color,
                optimizer=optimizer,
                lr=lr,
                weight_decay=weight_decay,
                power=power,
                warmup=warmup,
                ema=ema,
                class_weights=class_weights,
                label_smoothing=label_smoothing,
                loss=loss,
                clip=clip,
                bf16=bf16,
                seed=seed,
                init=str(init or encoder_weights or "") or None,
            )
            options = _model_options(model_options or [])
            mean = std = None
            if bands != 3:
                options["in_channels"] = bands
                mean, std = data[train_split].mean, data[train_split].std
            description = Description(
                model,
                _encoder_of(ctx, model, encoder),
                labelling.classes,
                working_size,
                options,
                mean,
                std,
            )
            torch.manual_seed(seed)
            network = description.build(None if resuming else encoder_weights)
            if init is not None and not resuming:
                missing = start_from(network, load_model(init))
                if missing:
                    say(processes, f"{init}: without {len(missing)} tensors, {missing[0]}, ...")
        except OSError as error:
            raise Failure(f"{init}: {reason(error)}") from error
        except ValueError as error:
            raise Failure(error) from error
        run_options = RunOptions(
            out_dir,
            accumulate,
            _workers(workers, own_device, processes),
            validate_every,
            time_limit=None if time_limit is None else 60 * time_limit,
        )
        with Display(config.iterations, processes) as display:
            trainer = Trainer(
                network,
                description,
                data[train_split],
                None if of_validation is None else data[of_validation],
                config,
                run_options,
                display,
                processes=processes,
                device=own_device,
                lock=lock,
            )
            try:
                if resuming:
                    if problem := trainer.resume_latest():
                        say(processes, f"{problem}; continuing from {PREVIOUS}, the one before")
                    display.start(trainer.iteration, trainer.history.best)
                    say(processes, _continuing(trainer))
                if processes.first:
                    write_options(out_dir, options_to_record(ctx))
                outcome = trainer.run()
            except OSError as error:
                raise Failure(f"{out_dir}: {reason(error)}") from error
    if processes.first:
        _conclude(processes, outcome, out_dir)
    if outcome.signal:
        raise typer.Exit(128 + outcome.signal)


def _encoder_of(ctx: typer.Context, model: str, encoder: str) -> str:
    """The name of the encoder, "" for models that have layers of their own.

    Raises:
        Failure: an encoder is named for one of these.
    """
    if model not in ARCHITECTURES or takes_encoder(model):
        return encoder
    source = ctx.get_parameter_source("encoder")
    if source is not None and source.name == "COMMANDLINE":
        raise Failure(f"--encoder is {encoder}, but --model {model} has layers of its own")
    return ""


def _continuing(trainer: Trainer) -> str:
    before, now = trainer.stored_iterations, trainer.config.iterations
    line = f"continuing after iteration {trainer.iteration}"
    if before == now:
        return line
    return (
        f"{line}; the run has {now} iterations in place of {before}, and from here on the learning "
        f"rates of a run of {now}"
    )


def _steps(epochs: float, images: int, batch_size: int) -> int:
    return max(1, round(epochs * images / max(1, batch_size)))


def _model_options(given: list[str]) -> dict[str, Any]:
    options = {}
    for option in given:
        name, separator, value = option.partition("=")
        if not separator or not name.isidentifier():
            raise ValueError(f"--model-option is {option!r}, expected NAME=VALUE")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options


def _workers(given: int | None, device: torch.device, processes: Processes) -> int:
    if given is not None:
        return given
    cores = (os.cpu_count() or 1) // local_count(processes)
    return 0 if device.type == "cpu" else min(8, max(1, cores))


def _conclude(processes: Processes, outcome: Outcome, out_dir: Path) -> None:
    best = "" if math.isnan(outcome.best) else f"; best validation mIoU {100 * outcome.best:.2f} %"
    if outcome.stopped:
        say(
            processes,
            f"ended {outcome.stopped} after iteration {outcome.iteration}{best}; the same command "
            "with --resume continues",
        )
    else:
        where = f" in {out_dir / BEST}" if best else f"; weights in {out_dir / LAST}"
        console.say(f"done{best}{where}")
