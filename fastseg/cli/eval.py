"""`fastseg eval`: the scores of a model on a folder of images and label maps."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from .._files import check_folder, written_whole
from ..data import Labelling, check_sense, model_classes, open_data_set
from ..engine.architectures import load_model
from ..engine.evaluate import evaluate
from ..metrics import Scores, scores
from ..models import SegmentationModel
from ..models.default import NAME as DEFAULT_NAME
from . import console
from .confusion import draw_confusion
from .console import Table, fail, percent_of, progress_bar, reason
from .datasets import cache_bytes, files_of, labelling_for, options_of, read_split, split_of
from .devices import device_named
from .joined import Failure, joined, say
from .options import (
    AsJson,
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
    Weights,
    WorkingSize,
)
from .outputs import Outputs, files_in


def eval_(
    dataset: Annotated[Path, typer.Argument(help="Data set in any layout that training takes.")],
    weights: Weights = None,
    split: Annotated[str, typer.Option(help="Name of the split.")] = "val",
    out_dir: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for eval.json and confusion.png.")
    ] = None,
    working_size: WorkingSize = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 4,
    bf16: Bf16 = False,
    device: Device = "auto",
    threads: Threads = None,
    layout: Layout = None,
    void: Void = None,
    label_map: LabelMap = None,
    labels_drawn: LabelsDrawn = "auto",
    trust_labels: TrustLabels = False,
    ignore: Ignore = None,
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a folder of images and label maps: mIoU, mAcc, aAcc, and every class.

    Counts are summed over the whole split at the size of the label maps; pixels without a class are
    left out, and classes without pixels do not count in the means. With --out, writes all numbers
    and a picture of the confusion matrix. On several processes: `torchrun ... -m fastseg eval`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with joined(device_named(device)) as (processes, own_device):
        if out_dir is not None:
            check_folder("--out", out_dir)
        label_options = options_of(void, label_map, labels_drawn, trust_labels, ignore)
        found = open_data_set(dataset, layout)
        split = split_of(found, split)
        if out_dir is not None:
            inputs = [dataset] if dataset.is_file() else []
            inputs += [*files_of(found.splits[split]), *([weights] if weights else [])]
            outputs = Outputs([*inputs, *files_in(label_map)])
            for name in ("eval.json", "confusion.png"):
                outputs.claim(out_dir / name)
        origin = DEFAULT_NAME if weights is None else str(weights)
        model = _load(weights)
        given = model.label_classes()
        labelling, lines = labelling_for(
            found, [split], label_options, processes, model_classes(given, origin)
        )
        _check_fit(labelling, len(given), origin, dataset)
        data = read_split(
            split, found.splits[split], labelling, processes, cache_bytes(None, processes),
            model.in_channels,
        )  # fmt: skip
        check_sense([data], label_options)
        if not as_json:
            say(processes, "; ".join((found.line([split]), *lines, *data.notes)))
        began = time.perf_counter()
        with progress_bar("evaluating", shown=processes.first) as progress:
            matrix = evaluate(
                model.to(own_device),
                data,
                working_size=working_size,
                batch_size=batch_size,
                void_row=True,
                processes=processes,
                progress=progress,
                bf16=bf16,
            )
        seconds = time.perf_counter() - began
    if not processes.first:
        return

    names = labelling.classes.names
    count = len(names)
    result = scores(matrix, count)
    content = {
        "model": type(model).__name__,
        "weights": origin,
        "dataset": str(dataset),
        "split": split,
        "images": len(data),
        "working_size": working_size or model.working_size,
        **result.as_json(names),
        "mIoU_void_as_false_positive": scores(matrix, count, void="false-positive").miou,
        "confusion": matrix[:count].tolist(),
        "void": matrix[count].tolist(),
        "seconds": round(seconds, 3),
    }
    if out_dir is not None:
        try:
            with written_whole(out_dir / "eval.json") as file:
                file.write(json.dumps(content, indent=1).encode())
            draw_confusion(out_dir / "confusion.png", matrix[:count], labelling.classes)
        except OSError as error:
            fail(f"{out_dir}: {reason(error)}")
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        _print(result, matrix[:count], labelling, seconds / len(data), out_dir)


def _load(weights: Path | None) -> SegmentationModel:
    try:
        return load_model(weights)
    except OSError as error:
        raise Failure(f"{weights}: {reason(error)}") from error
    except ValueError as error:
        raise Failure(error) from error


def _check_fit(labelling: Labelling, count: int, weights: str, dataset: Path) -> None:
    """Refuses a data set whose number of classes differs from the model's."""
    own = len(labelling.classes)
    if own != count:
        raise Failure(
            f"{weights}: the model gives {count} labels, {dataset} has {own} "
            f"(says {labelling.origin})"
        )


def _print(
    result: Scores,
    matrix: torch.Tensor,
    labelling: Labelling,
    seconds: float,
    out_dir: Path | None,
) -> None:
    numbers = (percent_of(value) for value in (result.miou, result.macc, result.aacc))
    title = "mIoU {}, mAcc {}, aAcc {}".format(*numbers)
    table = Table(title, "class", ">IoU", ">Acc", ">Dice", ">share of pixels")
    total = max(1, int(matrix.sum()))
    shares = (matrix.sum(1).double() / total).tolist()
    columns: tuple[Any, ...] = (
        labelling.classes.names,
        result.iou.tolist(),
        result.accuracy.tolist(),
        result.dice.tolist(),
        shares,
    )
    for name, *values in zip(*columns, strict=True):
        table.add(name, *(percent_of(value) for value in values))
    table.print()
    where = "" if out_dir is None else f"; results in {out_dir}"
    console.say(f"{1000 * seconds:.0f} ms per image{where}")
