"""`fastseg segment`: photographs to label maps and overlays."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .._files import FolderError, check_folder
from ..backends import BackendUnavailable, use_backend
from ..classes import ClassSet
from ..crf import PRESETS, DenseCRF
from ..engine.architectures import load_model
from ..models import SegmentationModel
from ..models.default import NAME as DEFAULT_NAME
from ..nn import fuse
from .console import err, fail, out, reason, report
from .devices import device_named
from .images import ImageError, Source, find_images, read_image
from .options import AsJson, Device, MaxPixels, Weights, WorkingSize
from .overlay import shares, write_before_after, write_labels, write_overlay


@dataclasses.dataclass(frozen=True)
class Result:
    """What one image gave. `pair`: the picture before and after a CRF; `counts`: (class, pixels),
    the largest first."""

    source: Source
    size: tuple[int, int]  # height, width
    overlay: Path
    labels: Path
    pair: Path | None
    seconds: float
    counts: list[tuple[int, int]]


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
    as_json: AsJson = False,
) -> None:
    """Segment images: for each a picture of its classes and a label map of the same size.

    Writes NAME_overlay.png (the image under its classes, with a legend) and NAME_labels.png (the
    class of every pixel, with the data set's palette), and prints how much of the images each
    class covers. With --crf there is NAME_before_after.png too, and the others show the refined
    classes. An image that cannot be read does not stop the others; the exit code then is 1.
    """
    if crf is not None and crf not in PRESETS:
        fail(f"--crf is {crf!r}, allowed are {', '.join(PRESETS)}")
    try:
        check_folder("--out", out_dir)
    except FolderError as error:
        fail(error)
    model = _load(weights, device_named(device))
    layer = _layer(crf, model) if crf is not None else None
    sources, problems = find_images(images, without=out_dir)
    failures = [*problems]
    results = []
    for problem in problems:
        report(problem)
    with _forced(backend), _progress(len(sources)) as advance:
        for source in sources:
            try:
                results.append(_segment_one(model, source, out_dir, working_size, layer))
            except BackendUnavailable as error:
                fail(error)
            except (ImageError, OSError, MemoryError, torch.OutOfMemoryError) as error:
                message = str(error) if isinstance(error, ImageError) else _named(source, error)
                failures.append(message)
                report(message)
            advance()

    if as_json:
        print(json.dumps(_as_json(model, weights, results, failures), indent=2))
    elif results:
        _print_table(results, model.classes, out_dir)
    if failures:
        raise typer.Exit(1)


def _segment_one(
    model: SegmentationModel,
    source: Source,
    out_dir: Path,
    working_size: int | None,
    crf: DenseCRF | None,
) -> Result:
    photo = read_image(source.path)
    start = time.perf_counter()
    labels = model.segment(photo, working_size, crf).cpu().numpy()
    seconds = time.perf_counter() - start
    base = out_dir / source.name
    pair = None
    if crf is not None:
        before = model.segment(photo, working_size).cpu().numpy()
        pair = base.with_name(f"{base.name}_before_after.png")
        write_before_after(pair, photo, before, labels, model.classes)
    overlay = base.with_name(f"{base.name}_overlay.png")
    label_map = base.with_name(f"{base.name}_labels.png")
    write_overlay(overlay, photo, labels, model.classes)
    write_labels(label_map, labels, model.classes)
    size = (labels.shape[0], labels.shape[1])
    return Result(source, size, overlay, label_map, pair, seconds, shares(labels, model.classes))


def _load(weights: Path | None, device: torch.device) -> SegmentationModel:
    try:
        return fuse(load_model(weights)).to(device)
    except OSError as error:
        fail(f"{weights}: {reason(error)}")
    except ValueError as error:
        fail(error)


def _layer(preset: str, model: SegmentationModel) -> DenseCRF:
    device = next(model.parameters()).device
    return DenseCRF.preset(preset, max(len(model.classes), 2)).to(device)


@contextlib.contextmanager
def _forced(backend: str | None) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(use_backend(backend))
        except ValueError as error:
            fail(f"--{error}")
        yield


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Shows a bar on stderr if that is a terminal; gives the function that advances it."""
    progress = Progress(
        TextColumn("segmenting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _named(source: Source, error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"{source.path}: its results cannot be written ({reason(error)})"
    return f"{source.path}: out of memory ({reason(error)}); try a smaller --working-size"


def _print_table(results: list[Result], classes: ClassSet, out_dir: Path) -> None:
    total = sum(height * width for height, width in (r.size for r in results))
    pixels: dict[int, int] = {}
    occurrences: dict[int, int] = {}
    for result in results:
        for index, count in result.counts:
            pixels[index] = pixels.get(index, 0) + count
            occurrences[index] = occurrences.get(index, 0) + 1
    table = Table(
        title=f"{len(results)} image{'s' if len(results) != 1 else ''}", title_style="bold"
    )
    table.add_column("class")
    table.add_column("share of pixels", justify="right")
    table.add_column("in images", justify="right")
    full, empty = ("■ ", "□ ") if out.encoding.startswith("utf") else ("", "")
    for index in sorted(pixels, key=lambda i: -pixels[i]):
        red, green, blue = classes.overlay_colors[index]
        swatch = empty if index == classes.background else full
        style = "dim" if index == classes.background else f"rgb({red},{green},{blue})"
        name = Text.assemble((swatch, style), classes.names[index])
        percent = 100 * pixels[index] / total
        share = f"{percent:.2f} %" if percent >= 0.01 else "< 0.01 %"
        table.add_row(name, share, str(occurrences[index]))
    out.print(table)
    seconds = sum(r.seconds for r in results)
    out.print(
        f"{1000 * seconds / len(results):.0f} ms per image; results in {out_dir}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _as_json(
    model: SegmentationModel, weights: Path | None, results: list[Result], failures: list[str]
) -> dict[str, Any]:
    classes = model.classes

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
            "classes": [
                {
                    "index": index,
                    "name": classes.names[index],
                    "pixels": count,
                    "share": count / (height * width),
                }
                for index, count in result.counts
            ],
        }

    return {
        "model": type(model).__name__,
        "weights": DEFAULT_NAME if weights is None else str(weights),
        "images": [entry(result) for result in results],
        "errors": failures,
    }
