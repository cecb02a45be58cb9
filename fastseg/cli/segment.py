"""`fastseg segment`: photographs to label maps and overlays."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy
import torch
import typer

from .._files import FolderError, check_folder
from .._memory import memory_errors
from ..backends import BackendUnavailable, use_backend
from ..classes import ClassSet
from ..crf import PRESETS, DenseCRF
from ..data import DatasetError, label_options
from ..data.bands import noted
from ..engine.architectures import load_model
from ..metrics import Scores
from ..models import SegmentationModel
from ..models.default import NAME as DEFAULT_NAME
from ..nn import fuse
from .console import Table, fail, note, percent_of, progress_bar, reason, report, say, swatches
from .devices import device_named
from .images import RESULTS, ImageError, Source, check_size, find_images, read_image, viewable
from .options import AsJson, Device, LabelMap, LabelsDrawn, MaxPixels, Void, Weights, WorkingSize
from .outputs import Outputs, files_in
from .overlay import shares, write_before_after, write_labels, write_overlay
from .truth import Truth, without_truth


@dataclasses.dataclass(frozen=True)
class Result:
    """What one image gave. `pair`: the picture before and after a CRF; `counts`: (class, pixels),
    the largest first; `scores`: against the label map of --truth."""

    source: Source
    size: tuple[int, int]  # height, width
    overlay: Path
    labels: Path
    pair: Path | None
    seconds: float
    counts: list[tuple[int, int]]
    scores: Scores | None


def segment(
    images: Annotated[
        list[Path],
        typer.Argument(help="Images, and folders that are searched with their subfolders."),
    ],
    weights: Weights = None,
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")
    ] = Path("segmented"),
    device: Device = "auto",
    backend: Annotated[
        str | None,
        typer.Option(help="Force native, triton, torch or reference; see `fastseg info`."),
    ] = None,
    working_size: WorkingSize = None,
    crf: Annotated[
        str | None,
        typer.Option(
            "--crf",
            metavar="PRESET",
            help=f"Refine the classes with a dense CRF along the edges of the photograph, and show "
            f"both side by side: {', '.join(PRESETS)}.",
        ),
    ] = None,
    max_pixels: MaxPixels = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Label map of the image, or a folder of label maps with the images' names, to "
            "score the results against."
        ),
    ] = None,
    void: Void = None,
    label_map: LabelMap = None,
    labels_drawn: LabelsDrawn = "auto",
    as_json: AsJson = False,
) -> None:
    """Segment images: for each a picture of its classes and a label map of the same size.

    Writes NAME_overlay.png (the image under its classes, with a legend) and NAME_labels.png (the
    class of every pixel, with the data set's palette), and prints how much of the images each
    class covers. --crf adds NAME_before_after.png, and the other two show the refined classes.
    Images may have any number of bands that the model takes: TIFF, or .npy [H, W, bands]. An image
    that cannot be read does not stop the others; the exit code then is 1. --truth adds the scores
    of each image and of all, counted as `fastseg eval` does.
    """
    if crf is not None and crf not in PRESETS:
        fail(f"--crf is {crf!r}, allowed are {', '.join(PRESETS)}")
    try:
        check_folder("--out", out_dir)
    except FolderError as error:
        fail(error)
    with _forced(backend):
        model, classes = _load(weights, device_named(device))
        layer = None if crf is None else DenseCRF.preset(crf, len(classes)).to(_device_of(model))
        sources, failures = find_images(images, out_dir, model.in_channels)
        for problem in failures:
            report(problem)
        known = None
        if truth is not None and sources:
            origin = DEFAULT_NAME if weights is None else str(weights)
            try:
                sources = without_truth(sources, truth)
                said = label_options(void or [], label_map or [], labels_drawn)
                known = Truth(truth, sources, classes, origin, said)
            except DatasetError as error:
                fail(error)
            note("; ".join(known.lines))
        inputs = [*(s.path for s in sources), *([weights] if weights else [])]
        inputs += [*files_in(label_map), *(known.files if known else [])]
        outputs = Outputs(inputs)
        job = Job(
            model, classes, layer, working_size, out_dir, outputs, known, collections.Counter()
        )
        results = []
        with progress_bar("segmenting", len(sources)) as advance:
            for done, source in enumerate(sources):
                try:
                    with memory_errors():
                        results.append(_segment_one(job, source))
                except BackendUnavailable as error:
                    fail(error)
                except (ImageError, FolderError, OSError, MemoryError) as error:
                    failures.append(_said(source, error))
                    report(failures[-1])
                advance(done + 1, len(sources))

    for line in noted(job.left_out, len(sources)):
        note(line)
    if as_json:
        print(json.dumps(_as_json(job, weights, results, failures), indent=2))
    elif results:
        if known is not None:
            _print_scores(results)
        _print_table(results, job)
    if failures:
        raise typer.Exit(1)


@dataclasses.dataclass(frozen=True)
class Job:
    """What all images share."""

    model: SegmentationModel
    classes: ClassSet
    crf: DenseCRF | None
    working_size: int | None
    out_dir: Path
    outputs: Outputs
    truth: Truth | None
    left_out: collections.Counter[str]


def _segment_one(job: Job, source: Source) -> Result:
    base = job.out_dir / source.name
    overlay, label_map, pair = (base.with_name(f"{base.name}{end}.png") for end in RESULTS)
    for path in (overlay, label_map, *([] if job.crf is None else [pair])):
        job.outputs.claim(path)
    left_out: list[str] = []
    image = read_image(source.path, job.model.in_channels, left_out.append)
    size = (image.shape[0], image.shape[1])
    # A small image may be seen large.
    check_size(source.path, *job.model.input_size(*size, job.working_size))
    start = time.perf_counter()
    labels = _labels(job, image, job.crf)
    seconds = time.perf_counter() - start
    scores = None if job.truth is None else job.truth.score(source, labels)
    photo = viewable(image)
    if job.crf is not None:
        write_before_after(pair, photo, _labels(job, image, None), labels, job.classes)
    write_overlay(overlay, photo, labels, job.classes)
    write_labels(label_map, labels, job.classes)
    counts = shares(labels, job.classes)
    job.left_out.update(left_out)
    refined = None if job.crf is None else pair
    return Result(source, size, overlay, label_map, refined, seconds, counts, scores)


def _labels(job: Job, image: numpy.ndarray, crf: DenseCRF | None) -> numpy.ndarray:
    return job.model.segment(image, job.working_size, crf).cpu().numpy()


def _load(weights: Path | None, device: torch.device) -> tuple[SegmentationModel, ClassSet]:
    """The model, and the classes of its labels."""
    origin = DEFAULT_NAME if weights is None else str(weights)
    try:
        with memory_errors():
            model = fuse(load_model(weights)).to(device)
            classes = model.label_classes()
    except OSError as error:
        fail(f"{origin}: {reason(error)}")
    except (BackendUnavailable, ValueError) as error:
        fail(error)
    except MemoryError as error:
        fail(f"{origin}: out of memory ({reason(error)})")
    if len(model.classes) not in (1, len(classes)):
        note(
            f"{origin}: names {len(model.classes)} classes and gives {len(classes)}, which are "
            "numbered"
        )
    return model, classes


def _device_of(model: SegmentationModel) -> torch.device:
    return next(model.parameters()).device


@contextlib.contextmanager
def _forced(backend: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(use_backend(backend))
        except ValueError as error:
            fail(f"--{error}")
        yield


def _said(source: Source, error: BaseException) -> str:
    if isinstance(error, ImageError | FolderError):
        return str(error)
    if isinstance(error, OSError):
        return f"{source.path}: its results cannot be written ({reason(error)})"
    return f"{source.path}: out of memory ({reason(error)}); try a smaller --working-size"


def _print_scores(results: list[Result]) -> None:
    table = Table("scores of each image", "image", ">mIoU", ">mAcc", ">aAcc")
    for result in results:
        if (found := result.scores) is not None:
            numbers = (percent_of(value) for value in (found.miou, found.macc, found.aacc))
            table.add(str(result.source.path), *numbers)
    table.print()


def _print_table(results: list[Result], job: Job) -> None:
    classes = job.classes
    total = sum(height * width for height, width in (r.size for r in results))
    pixels: dict[int, int] = {}
    occurrences: dict[int, int] = {}
    for result in results:
        for index, count in result.counts:
            pixels[index] = pixels.get(index, 0) + count
            occurrences[index] = occurrences.get(index, 0) + 1
    title = f"{len(results)} image{'s' if len(results) != 1 else ''}"
    columns = ["class", ">share of pixels", ">in images"]
    total_scores = None if job.truth is None else job.truth.total()
    if total_scores is not None:
        numbers = (total_scores.miou, total_scores.macc, total_scores.aacc)
        title += ": mIoU {}, mAcc {}, aAcc {}".format(*map(percent_of, numbers))
        columns += [">IoU", ">Acc"]
        for index, iou in enumerate(total_scores.iou.tolist()):
            if iou == iou:  # a class that occurs in the truth, though perhaps never in a result
                pixels.setdefault(index, 0)
    table = Table(title, *columns)
    full, empty = swatches()
    for index in sorted(pixels, key=lambda i: -pixels[i]):
        background = index == classes.background
        style = "dim" if background else "rgb({},{},{})".format(*classes.overlay_colors[index])
        name = ((empty if background else full, style), (classes.names[index], ""))
        percent = 100 * pixels[index] / total
        share = f"{percent:.2f} %" if percent >= 0.01 else "< 0.01 %"
        cells = [share, str(occurrences.get(index, 0))]
        if total_scores is not None:
            cells += [
                percent_of(values[index].item())
                for values in (total_scores.iou, total_scores.accuracy)
            ]
        table.add(name, *cells)
    table.print()
    seconds = sum(r.seconds for r in results)
    say(f"{1000 * seconds / len(results):.0f} ms per image; results in {job.out_dir}")


def _as_json(
    job: Job, weights: Path | None, results: list[Result], failures: list[str]
) -> dict[str, Any]:
    names = job.classes.names

    def entry(result: Result) -> dict[str, Any]:
        height, width = result.size
        return {
            "image": str(result.source.path),
            "height": height,
            "width": width,
            "overlay": str(result.overlay),
            "labels": str(result.labels),
            **({} if result.pair is None else {"before_after": str(result.pair)}),
            "seconds": round(result.seconds, 6),
            **({} if result.scores is None else {"scores": result.scores.as_json(names)}),
            "classes": [
                {
                    "index": index,
                    "name": names[index],
                    "pixels": count,
                    "share": count / (height * width),
                }
                for index, count in result.counts
            ],
        }

    return {
        "model": type(job.model).__name__,
        "weights": DEFAULT_NAME if weights is None else str(weights),
        "images": [entry(result) for result in results],
        **({} if job.truth is None else {"scores": job.truth.as_json()}),
        "errors": failures,
    }
