"""`fastseg crf`: labels or probabilities, sharpened along the edges of the photograph."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import numpy
import torch
import typer

from .._files import FolderError, check_folder
from .._memory import memory_errors
from .._messages import reason
from ..classes import VOC, ClassSet, label_classes, numbered_classes
from ..crf import DenseCRF
from ..crf.presets import PRESETS
from ..crf.utils import unary_from_labels, unary_from_softmax
from ..data import DatasetError
from ..data import label_options as label_options_of
from ..ops.upsample_argmax import upsample_argmax
from .console import fail, note, say
from .devices import device_named
from .images import ImageError, image_bands, read_image, viewable
from .labelling import GivenLabels, LabellingError, read_labelling
from .options import AsJson, Device, LabelMap, LabelsDrawn, MaxPixels
from .outputs import Outputs, files_in
from .overlay import write_before_after, write_labels

PRESET_HELP = f"Settings of the CRF: {', '.join(PRESETS)}."


def crf(
    image: Annotated[Path, typer.Argument(help="The photograph.")],
    labelling: Annotated[
        Path,
        typer.Argument(
            help="A label map of the photograph's size (an image with a palette, grey values or "
            "colours, .npy), or probabilities [L, H, W] (.npy, .npz), perhaps of lower resolution."
        ),
    ],
    out_dir: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")
    ] = Path("refined"),
    preset: Annotated[str, typer.Option(help=PRESET_HELP)] = "pydensecrf",
    iterations: Annotated[
        int | None, typer.Option(min=0, help="Mean-field steps. Default: the preset's.")
    ] = None,
    certainty: Annotated[
        float,
        typer.Option(help="How likely a label of a label map is right; more than 0, less than 1."),
    ] = 0.7,
    unknown: Annotated[
        list[str] | None,
        typer.Option(
            "--unknown",
            "--void",
            metavar="N|none",
            help="Label of unknown pixels; the CRF fills them. Default: 255, "
            "unless all labels are 0 and 255, which are background and foreground.",
        ),
    ] = None,
    meaning: LabelMap = None,
    labels_drawn: LabelsDrawn = "auto",
    logits: Annotated[
        bool, typer.Option("--logits", help="The .npy file holds logits, not probabilities.")
    ] = False,
    device: Device = "auto",
    max_pixels: MaxPixels = None,
    as_json: AsJson = False,
) -> None:
    """Refine a segmentation with a dense CRF: labels follow the edges of the photograph.

    Writes NAME_labels.png (the refined class of every pixel) and NAME_before_after.png (both
    labellings over the photograph, side by side), NAME being the photograph's.
    """
    if preset not in PRESETS:
        fail(f"--preset is {preset!r}, allowed are {', '.join(PRESETS)}")
    if not 0 < certainty < 1:
        fail(f"--certainty is {certainty}, expected more than 0 and less than 1")
    target = device_named(device)
    picture = out_dir / f"{image.stem}_before_after.png"
    label_map = out_dir / f"{image.stem}_labels.png"
    options = {} if iterations is None else {"iterations": iterations}
    try:
        check_folder("--out", out_dir)
        outputs = Outputs([image, labelling, *files_in(meaning)])
        for path in (picture, label_map):
            outputs.claim(path)
        with memory_errors():
            bands, left_out = image_bands(image), list[str]()
            photo = viewable(read_image(image, bands, left_out.append))
            if bands != 3:
                seen = "the first three as colours" if bands > 3 else "the first as grey"
                left_out.append(f"has {bands} bands, the CRF sees {seen}")
            label_options = label_options_of(unknown or [], meaning or [], labels_drawn)
            given = read_labelling(labelling, image, photo.shape[:2], label_options)
            for line in left_out:
                note(f"{image}: {line}")
            start = time.perf_counter()
            if isinstance(given, GivenLabels):
                scores, known = _scores_of_labels(given, certainty)
                layer = DenseCRF.preset(preset, len(known), **options)
                before, after = given.labels, known[_refined(layer, photo, scores, target)]
                if given.said and not as_json:
                    note(f"{labelling}: {given.said}")
            else:
                scores = _two_labels(given, logits)
                scores = scores if logits else _scores_of_probabilities(scores)
                layer = DenseCRF.preset(preset, len(scores), **options)
                before = upsample_argmax(torch.from_numpy(scores)[None], photo.shape[:2])[0].numpy()
                after = _refined(layer, photo, scores, target)
            seconds = time.perf_counter() - start
            classes = given.classes if isinstance(given, GivenLabels) else _classes(given)
            write_before_after(picture, photo, before, after, classes)
            write_labels(label_map, after, classes)
    except (DatasetError, FolderError, ImageError, LabellingError) as error:
        fail(error)
    except ValueError as error:
        fail(f"{labelling}: {reason(error)}")
    except MemoryError as error:
        fail(f"{image}: out of memory ({reason(error)})")
    except OSError as error:
        fail(f"{out_dir}: the results cannot be written ({reason(error)})")
    changed = float((before != after).mean())
    if as_json:
        facts = {
            "image": str(image),
            "labels": str(label_map),
            "picture": str(picture),
            "preset": preset,
            "changed": changed,
            "seconds": round(seconds, 6),
        }
        print(json.dumps(facts, indent=2))
        return
    say(
        f"{100 * changed:.2f} % of the pixels changed their label in {1000 * seconds:.0f} ms; "
        f"results in {out_dir}"
    )


def _scores_of_labels(given: GivenLabels, certainty: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Scores [K, H, W] of the K labels that occur, and these labels."""
    labels, unknown = given.labels, given.unknown
    known = numpy.unique(labels[labels != unknown])
    if len(known) == 0:
        raise ValueError(f"every pixel has the label {unknown}, which stands for unknown")
    index = numpy.searchsorted(known, labels) + 1
    index[labels == unknown] = 0
    return -unary_from_labels(index, len(known), certainty).reshape(-1, *labels.shape), known


def _two_labels(scores: numpy.ndarray, logits: bool) -> numpy.ndarray:
    """Expands a single class [1, h, w] to its absence and itself [2, h, w]."""
    if len(scores) != 1:
        return scores
    return numpy.concatenate([numpy.zeros_like(scores) if logits else 1 - scores, scores])


def _scores_of_probabilities(probabilities: numpy.ndarray) -> numpy.ndarray:
    """Scores [L, h, w]."""
    if not _sum_to_one(probabilities, 0):
        hint = "are the labels last? expected [L, H, W]"
        if not _sum_to_one(probabilities, 2):
            hint = "are they --logits?"
        raise ValueError(f"not probabilities, which are positive and sum to 1; {hint}")
    return -unary_from_softmax(probabilities).reshape(probabilities.shape)


def _sum_to_one(x: numpy.ndarray, axis: int) -> bool:
    """Whether the values can be probabilities; NaN cannot."""
    return bool(x.min() >= 0 and abs(x.sum(axis) - 1).max() < 1e-2)


def _refined(
    layer: DenseCRF, photo: numpy.ndarray, scores: numpy.ndarray, device: torch.device
) -> numpy.ndarray:
    """Indices of labels [H, W]."""
    images = torch.from_numpy(photo).permute(2, 0, 1)[None].to(device)
    logits = torch.from_numpy(scores)[None].to(device)
    return layer.to(device).predict(logits, images)[0].cpu().numpy()


def _classes(given: numpy.ndarray) -> ClassSet:
    """Those of scores [L, h, w]."""
    if len(given) == 1:
        return label_classes(numbered_classes(1), 1)
    return VOC if len(given) == len(VOC) else numbered_classes(len(given))
