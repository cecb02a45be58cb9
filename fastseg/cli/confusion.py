"""The picture of a confusion matrix."""

from __future__ import annotations

from pathlib import Path

import torch

from .._files import written_whole
from ..classes import ClassSet
from .overlay import short

_NUMBERED = 30  # classes up to which the cells hold numbers and the axes names


def draw_confusion(path: Path, matrix: torch.Tensor, classes: ClassSet) -> None:
    """Draws counts [C, C], rows the truth, each row as shares of its pixels, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context({"text.parse_math": False}):  # a class may have a $ in its name
        _draw(path, matrix, classes)


def _draw(path: Path, matrix: torch.Tensor, classes: ClassSet) -> None:
    from matplotlib.figure import Figure

    totals = matrix.sum(1, keepdim=True).double()
    shares = 100 * matrix.double() / totals  # NaN, which stays white, without pixels
    count = len(classes)
    side = min(18.0, 3.0 + 0.55 * count)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, shrink=0.8, label="% of the pixels of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    if count <= _NUMBERED:
        names = [short(name) for name in classes.names]
        axes.set_xticks(range(count), names, rotation=45, ha="right")
        axes.set_yticks(range(count), names)
        for row in range(count):
            for column in range(count):
                share = float(shares[row, column])
                if share >= 0.05:
                    axes.text(
                        column, row, f"{share:.0f}" if share >= 9.95 else f"{share:.1f}",
                        ha="center", va="center", fontsize=8,
                        color="white" if share > 55 else "black",
                    )  # fmt: skip
    axes.set_xticks([x - 0.5 for x in range(1, count)], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, count)], minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=130, bbox_inches="tight")
