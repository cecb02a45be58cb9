"""Which modules of a model fastseg runs, which it left alone, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from .loss import Loss


@dataclasses.dataclass(frozen=True)
class Row:
    """A module of the report.

    Attributes:
        path: its name in model.named_modules(); "" is the model itself.
        kind: name of its class.
        what: how fastseg runs it; "" if it was left alone.
        why_not: why it was left alone.
        flops_before, flops_after: multiplications and additions of the convolutions and matrix
            products of its forward, at the image size given to `accelerate`; None without one.
    """

    path: str
    kind: str
    what: str = ""
    why_not: str = ""
    flops_before: int | None = None
    flops_after: int | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What `accelerate` did: the modules that fastseg runs, those it left alone, and a loss.

    Attributes:
        rows: one per module, in the order of model.named_modules().
        loss_fn: the cross-entropy of the model's outputs; see fastseg.accelerate.
        total: the FLOPs of the whole model, before and after.
        notes: further lines of the printed report.
    """

    rows: tuple[Row, ...]
    loss_fn: Loss
    total: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def swapped(self) -> tuple[Row, ...]:
        """The modules that fastseg runs."""
        return tuple(row for row in self.rows if row.what)

    @property
    def left(self) -> tuple[Row, ...]:
        """The modules of known kinds that run as they did."""
        return tuple(row for row in self.rows if row.why_not)

    def __str__(self) -> str:
        """A table, with one line for all modules of one class and text."""
        table = [("module", "class", "what, or why not", "GFLOPs")]
        for group in _groups(self.rows):
            first = group[0]
            path = first.path or "(model)"
            if len(group) > 1:
                path += f" and {len(group) - 1} more"
            text = first.what or f"left alone: {first.why_not}"
            table.append((path, first.kind, text, _change(_sums(group))))
        if len(table) == 1:
            table.append(("-", "-", "nothing in it is known to fastseg", ""))
        if self.total is not None:
            table.append(("in all", "", "", _change(self.total)))
        widths = [max(len(line[i]) for line in table) for i in range(4)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join([*lines, *self.notes])


def _groups(rows: tuple[Row, ...]) -> Iterator[list[Row]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.kind, row.what, row.why_not), []).append(row)
    yield from groups.values()


def _sums(rows: list[Row]) -> tuple[int, int] | None:
    """FLOPs of modules together; a module inside another of them counts once."""
    outer = [r for r in rows if not any(r is not o and _inside(r.path, o.path) for o in rows)]
    before = [row.flops_before for row in outer if row.flops_before is not None]
    after = [row.flops_after for row in outer if row.flops_after is not None]
    if not len(before) == len(after) == len(outer):
        return None
    return sum(before), sum(after)


def _inside(path: str, outer: str) -> bool:
    return outer == "" or path.startswith(f"{outer}.")


def _change(flops: tuple[int, int] | None) -> str:
    if flops is None:
        return ""
    before, after = (f"{count / 1e9:.3g}" for count in flops)
    return before if flops[0] == flops[1] else f"{before} -> {after}"
