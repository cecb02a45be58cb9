"""Finds out which labels a data set has, and whether they make sense."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from .arrays import ImageError
from .classes_file import Declared
from .images import opened, stored_orientation
from .label_options import LabelOptions
from .labelling import DatasetError, Labelling, orientation_of
from .layouts import DataSet, Pair
from .meaning import OVERRIDE, decide, labels_line
from .split import Split
from .survey import Survey, survey
from .threads import in_order

_FIRST_FILES = 16  # label files that are looked at where the classes are known
_MOST_VOID = 0.99
_DEEP = (".npy", ".npz")


def labelling_of(
    data: DataSet,
    pairs: Iterable[Pair],
    options: LabelOptions | None = None,
    *,
    model: Declared | None = None,
    threads: int = 1,
) -> tuple[Labelling, list[str]]:
    """Finds out what the labels of a data set mean.

    The classes are those of classes.json or of the layout, else those of the model, else as many
    as the highest label of all label files says.

    Args:
        data: the data set.
        pairs: that are going to be used.
        options: what the user says about labels.
        model: the classes of the model that is evaluated.
        threads: number of threads that read label files.

    Returns:
        The meaning, and lines to print about how it was found.

    Raises:
        DatasetError: label files cannot be read, fit nothing that is known, or make no sense.
    """
    options = options or LabelOptions()
    pairs = list(pairs)
    declared = data.declared or model
    if not pairs:
        raise DatasetError(f"{data.root}: has no images with labels")
    found = survey((p.label for p in pairs), threads=threads, enough=_enough(declared))
    meaning = decide(found, declared, options, str(data.root))
    labelling, lines = meaning.labelling, [labels_line(meaning, found)]
    drawn, note = _drawn_on(pairs, options, threads)
    if note:
        lines.append(note)
    return dataclasses.replace(labelling, drawn=drawn), lines


def _enough(declared: Declared | None) -> Callable[[Survey], bool]:
    """Number of label files to read if the classes are known: a few show how they are written.

    With one class or two all are looked at, until one has both 1 and 255: these are background and
    foreground where no file has other labels, and must not be mixed with files of 0 and 1.
    """

    def enough(found: Survey) -> bool:
        if declared is None or found.files < _FIRST_FILES:
            return False
        if found.channelled and found.colored is None:
            return False  # a coloured file may still come
        few = declared.own and len(declared.classes) <= 2
        return not few or found.numbers is None or found.beside

    return enough


def check_sense(splits: Iterable[Split], options: LabelOptions) -> None:
    """Stops a run whose labels can neither train nor measure a model.

    Args:
        splits: that are going to be used.
        options: `trusted` switches the check off.

    Raises:
        DatasetError: one class only, or nearly all pixels void; the message says what to do.
    """
    if options.trusted:
        return
    for split in splits:
        name = f"the split {split.name}" if split.name else "the data set"
        counted, names = int(split.pixels.sum()), split.labelling.classes.names
        void = split.void / max(1, split.void + counted)
        present = [names[i] for i in range(len(names)) if split.pixels[i]]
        if void >= _MOST_VOID:
            raise DatasetError(
                f"{name}: {100 * void:.1f} % of the pixels are void "
                f"({_void(split.labelling)}); if they are not, say so with --void none or "
                f"--void N; {OVERRIDE}"
            )
        if len(present) < 2:
            raise DatasetError(
                f"{name}: all pixels that count are of one class, {present[0]}, and "
                f"{100 * void:.1f} % are void ({_void(split.labelling)}); {OVERRIDE}"
            )


def _void(labelling: Labelling) -> str:
    if labelling.colors is not None:
        return "by colour"
    return f"labels {', '.join(map(str, labelling.void)) or 'none'}"


def _drawn_on(pairs: list[Pair], options: LabelOptions, threads: int) -> tuple[str, str]:
    """Whether labels were drawn on stored or on upright pixels, and what to say about it.

    The sizes of photographs that are turned by 90 degrees say it, for all photographs of the data
    set; without such ones labels belong to the stored pixels. Where no photograph has an
    orientation, there is nothing to turn.

    Raises:
        DatasetError: the sizes contradict each other.
    """
    seen = [s for s in in_order(_orientation_and_sizes, pairs, max(1, threads)) if s]
    if not seen:
        return "upright", ""
    stored = next((pair for pair, drawn in seen if drawn == "stored"), None)
    upright = next((pair for pair, drawn in seen if drawn == "upright"), None)
    drawn, why = options.drawn, "--labels-drawn"
    if drawn == "auto":
        if stored is not None and upright is not None:
            raise DatasetError(
                f"{stored.label}: was drawn on the stored pixels of its photograph, but "
                f"{upright.label} on the upright one (EXIF); give one of them to all"
            )
        drawn = "upright" if upright is not None else "stored"
        why = "their sizes say so" if stored or upright else "else give --labels-drawn upright"
    kind = "the stored pixels" if drawn == "stored" else "the upright picture"
    count = f"{len(seen)} photograph{'s' if len(seen) != 1 else ''}"
    return drawn, f"EXIF: {count} with an orientation; labels are those of {kind} ({why})"


def _orientation_and_sizes(pair: Pair) -> tuple[Pair, str] | None:
    """On which pixels the labels of a photograph with an orientation were drawn, "" if its size
    does not say; None for all other photographs."""
    if not isinstance(pair.label, Path) or pair.image.suffix.lower() in _DEEP:
        return None
    try:
        with opened(pair.image) as photo:
            orientation, stored = stored_orientation(photo), photo.size
        if orientation == 1:
            return None
        if pair.label.suffix.lower() in _DEEP:
            return pair, ""
        with opened(pair.label) as label:
            if stored_orientation(label) != 1:
                return None
            size = label.size
    except ImageError:
        # Of a kind that Pillow has not, or damaged, and then reading it says why.
        try:
            return (pair, "") if orientation_of(pair.image) != 1 else None
        except ImageError:
            return None
    if orientation < 5 or stored[0] == stored[1]:
        return pair, ""
    if size == stored:
        return pair, "stored"
    return pair, "upright" if size == stored[::-1] else ""
