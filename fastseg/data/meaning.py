"""Decides what labels mean, from declarations, options and the labels found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from ..classes import ClassSet, Color, bright_colors, numbered_classes
from .classes_file import Declared
from .label_files import color_code
from .label_options import LabelOptions, target_index
from .labelling import IGNORE, DatasetError, Labelling
from .layouts.known import KNOWN_PALETTES, palette_of
from .survey import WHITES, Survey

_MOST_CLASSES = 100  # that are believed without names
_FIRST_SPARSE = 32  # the highest label from which on gaps are suspicious
OVERRIDE = "--trust-labels uses them all the same"


@dataclasses.dataclass(frozen=True)
class Meaning:
    """A labelling, and the reason for it in words."""

    labelling: Labelling
    said: str


def decide(found: Survey, declared: Declared | None, options: LabelOptions, where: str) -> Meaning:
    """Decides what the labels of a data set mean.

    Args:
        found: what its label files hold; of all of them where nothing is declared.
        declared: the classes as the data set, its layout or a model has them.
        where: what messages call the label files.

    Raises:
        DatasetError: the labels fit nothing that is known, or make no sense.
    """
    by_color = _by_color(found, declared, options, where)
    if by_color is not None:
        return by_color
    assert found.numbers is not None
    return _by_number(found.numbers, found, declared, options, where)


def _by_color(
    found: Survey, declared: Declared | None, options: LabelOptions, where: str
) -> Meaning | None:
    """The meaning of the colours, where they count: None where the numbers do."""
    seen = {code for code in found.colors if code >= 0}
    own = dict(declared.colors) if declared is not None else {}
    if found.colored is None and not options.colors:
        if declared is None or not own or not seen <= set(own) or -1 in found.colors:
            return None
        numbers = declared.numbered() | {void: IGNORE for void in _void(declared, options)}
        plain = not found.paletted and not found.channelled
        if plain and set(found.numbers or ()) <= set(numbers):
            return None
        if found.paletted and _agree(found, numbers, own):
            return None
    names = declared.classes.names if declared is not None else ()
    if options.colors:
        count = max([len(names), *(t + 1 for t in options.colors.values() if isinstance(t, int))])
        classes = declared.classes if declared is not None else numbered_classes(count)
        if declared is not None and declared.own and len(classes) == 1:
            classes, own = binary_classes(declared), {0: 0}  # on black
        asked = {
            code: target_index(target, classes.names, IGNORE)
            for code, target in options.colors.items()
        }
        return _colored(classes, own | asked, "--label-map", seen, found, where)
    if own:
        assert declared is not None
        if len(declared.classes) == 1 and declared.own and seen - set(own) == {0}:
            # The only class is drawn on black.
            meaning = {code: 1 if index == 0 else index for code, index in own.items()} | {0: 0}
            classes = binary_classes(declared)
            return _colored(classes, meaning, declared.origin, seen, found, where)
        return _colored(declared.classes, own, declared.origin, seen, found, where)
    known = palette_of(seen)
    if known is not None and names in ((), known[1].classes.names):
        origin, palette = f"the colours of {known[0]}", known[1]
        return _colored(palette.classes, palette.colors, origin, seen, found, where)
    if declared is not None:
        implied = {color_code(color): i for i, color in enumerate(declared.classes.colors)}
        if seen <= set(implied):
            return _colored(declared.classes, implied, declared.origin, seen, found, where)
    pairs = ",".join(f"#{code:06x}={i}" for i, code in enumerate(sorted(seen)[:12]))
    raise DatasetError(
        f"{found.colored}: has colours ({_colors(found)}) that are not those of "
        f"{', '.join(KNOWN_PALETTES)}; give them in classes.json (palette_rgb), or with "
        f"--label-map '{pairs}{',...' if len(seen) > 12 else ''}'"
    )


def _colored(
    classes: ClassSet,
    meaning: Mapping[int, int],
    origin: str,
    seen: set[int],
    found: Survey,
    where: str,
) -> Meaning:
    if unknown := sorted(seen - set(meaning), key=lambda code: -found.colors[code]):
        raise DatasetError(
            f"{found.colored or where}: holds the colour #{unknown[0]:06x} "
            f"({found.colors[unknown[0]]} pixels, and {len(unknown) - 1} more colours), which is "
            f"none of the {len(meaning)} of {origin}; found are {_colors(found)}"
        )
    labelling = Labelling(classes, {}, dict(meaning), origin)
    return Meaning(labelling, "colours are classes")


def _agree(found: Survey, numbers: Mapping[int, int], colors: Mapping[int, int]) -> bool:
    """Whether the indices of palette files mean the classes that their colours do."""
    return all(
        number < len(found.palette or ())
        and numbers.get(number) == colors.get(color_code((found.palette or ())[number]))
        for number in found.numbers or ()
    )


def _void(declared: Declared | None, options: LabelOptions) -> frozenset[int]:
    if options.void is not None:
        return options.void | ({IGNORE} if options.void else set())
    if declared is not None and declared.void is not None:
        return declared.void | {IGNORE}
    return frozenset({IGNORE})


def _by_number(
    seen: Mapping[int, int],
    found: Survey,
    declared: Declared | None,
    options: LabelOptions,
    where: str,
) -> Meaning:
    void = _void(declared, options)
    white = foreground_label(seen, declared, options)
    if white is not None:
        classes = binary_classes(declared)
        numbers = dict.fromkeys(void, IGNORE) | {0: 0, white: 1}
        origin = declared.origin if declared is not None else "the label files"
        background, foreground = classes.names
        said = f"the labels are 0 and {white}: 0 is {background}, {white} is {foreground}"
        return Meaning(Labelling(classes, numbers, None, origin), said)
    if not options.trusted:
        _check_agreement(seen, found, void, declared, options, where)
        if _is_smoothed(seen, declared):
            raise DatasetError(
                f"{where}: 0 and 255 with {len(seen) - 2} labels between them on few pixels: the "
                "borders of these masks were smoothed or saved lossily; threshold them first. "
                f"{OVERRIDE}"
            )
    said = "numbers are classes"
    if declared is not None:
        classes, origin, numbers = declared.classes, declared.origin, declared.numbered()
        if _has_foreground(seen, void, declared, options):
            classes = binary_classes(declared)
            numbers = {0: 0, 1: 1}
            said = f"0 is {classes.names[0]}, 1 is {classes.names[1]}"
        targets = {
            value: target_index(target, classes.names, IGNORE)
            for value, target in options.numbers.items()
        }
        if over := [t for t in targets.values() if t != IGNORE and t >= len(classes)]:
            raise DatasetError(
                f"--label-map: class {max(over)}, allowed are 0 to {len(classes) - 1}, from "
                f"{origin}"
            )
    else:
        targets = {
            value: target_index(target, (), IGNORE) for value, target in options.numbers.items()
        }
        classes = _inferred(seen, found, targets, void, options, where)
        origin = f"the labels of {found.files} files"
        numbers = {index: index for index in range(len(classes))}
    numbers |= dict.fromkeys(void, IGNORE)
    numbers |= targets
    if options.numbers:
        said = "--label-map: " + ", ".join(
            f"{value} is {'void' if index == IGNORE else classes.names[index]}"
            for value, index in list(targets.items())[:8]
        )
    return Meaning(Labelling(classes, numbers, None, origin), said)


def _check_agreement(
    seen: Mapping[int, int],
    found: Survey,
    void: frozenset[int],
    declared: Declared | None,
    options: LabelOptions,
    where: str,
) -> None:
    """The label files say the same with the same number.

    Raises:
        DatasetError: palettes differ, or some masks are of 0 and 1 and others of 0 and 255.
    """
    clash = [words for index, words in found.clash.items() if index not in void]
    if clash and not options.numbers:
        pairs = ",".join(f"#{code:06x}={i}" for i, code in enumerate(sorted(found.colors)[:12]))
        raise DatasetError(
            f"{where}: the palettes of the label files differ: {clash[0]}; say what the colours "
            f"are, in classes.json (palette_rgb) or with --label-map '{pairs}'; {OVERRIDE}"
        )
    said = options.void is not None or (declared is not None and declared.void is not None)
    few = declared is None or len(declared.classes) <= 2
    if said or options.numbers or not few or found.beside or not set(seen) <= {0, 1, *WHITES}:
        return
    if found.with_one is not None and found.with_white is not None:
        white = max(seen)
        raise DatasetError(
            f"{where}: the labels are 0 and 1 in {found.with_one}, 0 and {white} in "
            f"{found.with_white}, and no file has both; say what {white} is: foreground with "
            f"--label-map {white}=1, or --void {white}"
        )


def _has_foreground(
    seen: Mapping[int, int], void: frozenset[int], declared: Declared, options: LabelOptions
) -> bool:
    """Whether the only class that is declared is the foreground, label 1."""
    if len(declared.classes) != 1 or not declared.own:
        return False
    others = set(seen) - void - set(options.numbers)
    named = {1, declared.classes.names[0]}
    return 1 in others or any(target in named for target in options.numbers.values())


def foreground_label(
    seen: Iterable[int], declared: Declared | None, options: LabelOptions
) -> int | None:
    """The label that is the foreground rather than void, beside the background 0; None: none is.

    Args:
        seen: all labels of the data set.
    """
    if options.numbers:
        return None
    void = set(options.void or ())
    if declared is not None:
        if not declared.own or len(declared.classes) > 2:
            return None
        if options.void is None and declared.void is not None:
            void |= declared.void
    if 1 in seen:
        return None  # white is beside numbers that count classes
    others = set(seen) - void
    if declared is not None and len(others) == 1:
        others |= {0}  # every pixel is foreground, of a known background and foreground
    return next((white for white in WHITES if others == {0, white}), None)


def binary_classes(declared: Declared | None) -> ClassSet:
    """Background and foreground, named as declared."""
    names: tuple[str, ...] = ("background", "foreground")
    colors: tuple[Color, ...] = ((0, 0, 0), (255, 255, 255))
    if declared is not None and len(declared.classes) == 2:
        return dataclasses.replace(declared.classes, background=0)
    if declared is not None:
        names = ("background", *declared.classes.names)
        if names[1] == "background":
            names = ("background", "foreground")
    return ClassSet(names, colors, bright_colors(2), background=0)


def _inferred(
    seen: Mapping[int, int],
    found: Survey,
    targets: Mapping[int, int],
    void: frozenset[int],
    options: LabelOptions,
    where: str,
) -> ClassSet:
    """Infers the number of classes from the highest label."""
    counted = [value for value in seen if value not in void and value not in targets]
    kept = [*counted, *(t for t in targets.values() if t != IGNORE)]
    if not kept:
        raise DatasetError(f"{where}: every pixel of {found.files} files is void; {_hint(seen)}")
    top = max(kept)
    if top >= IGNORE or min(kept) < 0:
        raise DatasetError(
            f"{where}: {_labels(seen)}: classes are 0 to {IGNORE - 1}; {_hint(seen)}"
        )
    if not options.trusted:
        if len(counted) > _MOST_CLASSES:
            raise DatasetError(
                f"{where}: {len(counted)} different labels in {found.files} files; masks that went "
                "through lossy files or were smoothed look so. Name the classes in classes.json; "
                f"{OVERRIDE}"
            )
        if top >= _FIRST_SPARSE and 4 * len(set(kept)) < top + 1:
            raise DatasetError(
                f"{where}: {_labels(seen)}: that would be {top + 1} classes, most of them empty; "
                f"{_hint(seen)}. Or name the classes in classes.json; {OVERRIDE}"
            )
    classes = numbered_classes(top + 1)
    if found.palette is not None and len(found.palette) >= top + 1:
        colors = tuple(found.palette[: top + 1])
        classes = ClassSet(classes.names, colors, bright_colors(top + 1))
    return classes


def _is_smoothed(seen: Mapping[int, int], declared: Declared | None) -> bool:
    """Whether few pixels of masks lie between 0 and 255, with many values."""
    if declared is not None and len(declared.classes) > 2:
        return False
    if not set(seen) >= {0, 255} or len(seen) < 8 or not set(seen) <= set(range(256)):
        return False
    return seen[0] + seen[255] > 0.8 * sum(seen.values())


def _labels(seen: Mapping[int, int]) -> str:
    values = sorted(seen)
    shown = ", ".join(map(str, values[:12]))
    return f"the labels are {shown}{', ...' if len(values) > 12 else ''}"


def _hint(seen: Mapping[int, int]) -> str:
    """An option that would help, ready to copy."""
    values = sorted(seen)
    if len(values) <= 12:
        strange = [value for value in values if not 0 <= value < IGNORE]
        rest = [value for value in values if 0 <= value < IGNORE]
        dense = rest == list(range(len(rest))) and rest
        if strange and dense:
            return f"--void {','.join(map(str, strange))} leaves labels out"
        pairs = ",".join(f"{value}={index}" for index, value in enumerate(values) if value != index)
        return f"say which class each is, such as --label-map {pairs}" if pairs else OVERRIDE
    return "say which class each is with --label-map FILE, or which are void with --void"


def _colors(found: Survey) -> str:
    common = [code for code, _ in found.colors.most_common(8) if code >= 0]
    more = ", ..." if len(found.colors) > 8 else ""
    return ", ".join(f"#{code:06x}" for code in common) + more


def shares(found: Survey, most: int = 12) -> str:
    """Formats the number of pixels of each label."""
    counts = found.numbers if found.numbers is not None else found.colors
    total = max(1, sum(counts.values()))
    words = []
    for value, count in counts.most_common(most):
        label = str(value) if found.numbers is not None else f"#{value:06x}"
        words.append(f"{label} {100 * count / total:.1f} %")
    words += [f"{len(counts) - most} more"] if len(counts) > most else []
    return (
        f"pixels of {found.files} label file{'s' if found.files != 1 else ''}: {', '.join(words)}"
    )


def labels_line(meaning: Meaning, found: Survey) -> str:
    """One line: what the labels mean, who says so, and how many pixels each has."""
    labelling = meaning.labelling
    names = ", ".join(labelling.classes.names[:12])
    names += ", ..." if len(labelling.classes) > 12 else ""
    void = _ranges(labelling.void) or "none"
    about = "" if labelling.colors is not None else f", void {void}"
    return (
        f"labels: {meaning.said}; {len(labelling.classes)} classes ({names}){about}, from "
        f"{labelling.origin}; {shares(found)}"
    )


def _ranges(values: list[int]) -> str:
    """ "-1 to 6, 9" of sorted numbers: three and more in a row by the first and the last."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(words)
