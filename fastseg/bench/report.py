"""Results as a table for the terminal and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from .candidates import COMPILED, EAGER, OURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DTYPE_NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "float64": "fp64"}
DIRECTION_NAMES = {
    "forward": "fwd",
    "backward": "bwd",
    "forward+backward": "fwd+bwd",
    "forward out=": "fwd, out=",
}
LAYOUT_NAMES = {"NCHW": "NCHW", "channels_last": "c_last"}
NOTE = (
    "Every case was checked before it was timed: error against float64 at most twice PyTorch's. "
    "Times are medians of interleaved samples, each side in its faster memory layout. The rate "
    "counts the fewest bytes (or the operations) of the task; ceiling is its share of the copy (or "
    "arithmetic) rate measured here, which reading alone can exceed. Extra MB: peak memory of "
    "fastseg / eager beyond the inputs."
)

# Column -> whether it is text; the others are numbers.
COLUMNS = {
    "workload": True,
    "dtype": True,
    "pass": True,
    "fastseg ms": False,
    "eager ms": False,
    "compile ms": False,
    "vs eager": False,
    "vs compile": False,
    "rate": False,
    "ceiling": False,
    "extra MB": False,
}
DISPENSABLE = ("extra MB", "rate", "dtype")

# Okabe and Ito's palette, which colour-blind readers can tell apart.
PEER_COLOURS = {
    (EAGER, "NCHW"): "#0072B2",
    (EAGER, "channels_last"): "#56B4E9",
    (COMPILED, ""): "#E69F00",
}
LARGEST_PICTURE = 60_000  # pixels of a side; matplotlib draws up to 65,536
OTHER_COLOUR = "#009E73"


def machine_lines(data: dict[str, Any]) -> list[str]:
    """Describes the machine of the results in two lines."""
    machine, ceilings = data["machine"], data["ceilings"]
    threads = f", {machine['threads']} threads" if machine["device"] == "cpu" else ""
    copy = f"{ceilings['copy_bytes_per_s'] / 1e9:.3g} GB/s copy"
    if machine["device"] == "cpu":
        peak = f"{ceilings['flops_per_s'] / 1e9:.3g} GFLOP/s fp32 convolution"
    else:
        peak = f"{ceilings['flops_per_s'] / 1e12:.3g} TFLOP/s bf16 matrix product"
    return [
        f"{machine['name']}{threads}, torch {machine['torch']}, fastseg {machine['fastseg']} "
        f"(native core: {machine['native_core']})",
        f"Ceilings measured in this run: {copy}, {peak}",
    ]


def table(data: dict[str, Any], width: int) -> RenderableType:
    """Makes a table for a terminal `width` columns wide; a narrow one gets fewer columns."""
    shown = [name for name in COLUMNS if name != "compile ms" or _has(data, COMPILED)]
    if not _has(data, COMPILED):
        shown.remove("vs compile")
    rows = _rows(data, shown)
    for name in DISPENSABLE:
        if _width(rows) > width:
            shown.remove(name)
            rows = _rows(data, shown)
    lines: list[RenderableType] = [*machine_lines(data), rows, Text(NOTE, style="dim")]
    for failure in data["failures"]:
        lines.append(Text(f"NOT TIMED: {failure['case']}: {failure['reason']}", style="red"))
    for row in data["results"]:
        for label, why in row["left_out"].items():
            lines.append(Text(f"{row['op']} {row['workload']}: no {label}: {why}", style="dim"))
    return Group(*lines)


def _has(data: dict[str, Any], kind: str) -> bool:
    return any(v["kind"] == kind for row in data["results"] for v in row["variants"])


def _width(rows: Table) -> int:
    console = Console(width=1000, markup=False, emoji=False)
    return Measurement.get(console, console.options, rows).minimum


def _rows(data: dict[str, Any], shown: list[str]) -> Table:
    rows = Table(pad_edge=False, header_style="bold")
    for name in shown:
        rows.add_column(
            name,
            justify="left" if COLUMNS[name] else "right",
            no_wrap=name != "workload",
            overflow="fold",
        )
    op = None
    for row in data["results"]:
        if row["op"] != op:
            op = row["op"]
            rows.add_section()
            rows.add_row(Text(op, style="bold"))
        cells = _cells(row)
        rows.add_row(*(cells[name] for name in shown))
    return rows


def _cells(row: dict[str, Any]) -> dict[str, RenderableType]:
    best = {kind: _best(row, kind) for kind in (OURS, EAGER, COMPILED)}
    in_memory = row["bound"] == "memory"
    return {
        "workload": row["workload"],
        "dtype": DTYPE_NAMES.get(row["dtype"], row["dtype"]),
        "pass": DIRECTION_NAMES.get(row["direction"], row["direction"]),
        "fastseg ms": _time(best[OURS]),
        "eager ms": _time(best[EAGER]),
        "compile ms": _time(best[COMPILED]),
        "vs eager": _ratio(row["speedup"].get(EAGER)),
        "vs compile": _ratio(row["speedup"].get(COMPILED)),
        "rate": f"{row['gb_per_s']:.3g} GB/s" if in_memory else f"{row['gflop_per_s']:.3g} GF/s",
        "ceiling": f"{row['fraction_of_ceiling']:.0%}",
        "extra MB": " / ".join(_megabytes(row, kind) for kind in (OURS, EAGER)),
    }


def _best(row: dict[str, Any], kind: str) -> dict[str, Any] | None:
    found = [v for v in row["variants"] if v["kind"] == kind]
    return min(found, key=lambda v: v["median_s"]) if found else None


def _time(variant: dict[str, Any] | None) -> str:
    if variant is None:
        return "-"
    return f"{_three_digits(variant['median_s'] * 1e3)} {LAYOUT_NAMES[variant['layout']]:>6}"


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 1000 else f"{value:.0f}"


def _ratio(ratio: float | None) -> Text:
    if ratio is None:
        return Text("-")
    style = "green" if ratio >= 1.05 else "red" if ratio <= 0.95 else ""
    return Text(f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x", style=style)


def _megabytes(row: dict[str, Any], kind: str) -> str:
    known = [v["peak_extra_bytes"] for v in row["variants"] if v["kind"] == kind]
    known = [size for size in known if size is not None]
    return f"{min(known) / 1e6:.3g}" if known else "-"


def draw(data: dict[str, Any], path: Path) -> None:
    """Writes a picture of the speed-ups: one group of bars per case, one bar per peer.

    Args:
        data: what results.bundle made; with at least one row.
        path: where to; the suffix chooses the format.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):  # a workload may have a $ in its name
        _draw(data, path, Figure)


def _draw(data: dict[str, Any], path: Path, make_figure: Any) -> None:
    dtypes = list(dict.fromkeys(row["dtype"] for row in data["results"]))
    columns = [[row for row in data["results"] if row["dtype"] == dtype] for dtype in dtypes]
    height = 2.2 + 0.62 * max(_lines(rows) for rows in columns)
    width = 1.5 + 8.0 * len(columns)
    dpi = min(120.0, LARGEST_PICTURE / max(width, height))
    figure = make_figure(figsize=(width, height), layout="constrained", dpi=dpi)
    axes = figure.subplots(1, len(columns), squeeze=False, sharex=True)[0]
    for axis, dtype, rows in zip(axes, dtypes, columns, strict=True):
        _draw_bars(axis, rows)
        axis.set_title(dtype, fontweight="bold")
        axis.set_xlabel("speed-up of fastseg over the peer (log scale)")
    handles = {
        text: handle
        for axis in axes
        for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    title = "\n".join(["fastseg against PyTorch", *machine_lines(data)])
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def _lines(rows: list[dict[str, Any]]) -> int:
    """Height of a column: its rows, and one heading per op."""
    return len(rows) + len({row["op"] for row in rows})


def _draw_bars(axis: Axes, rows: list[dict[str, Any]]) -> None:
    ratios = [[r for _, _, r in _peer_ratios(row)] for row in rows]
    largest = max((r for group in ratios for r in group), default=1.0)
    smallest = min((r for group in ratios for r in group), default=1.0)
    axis.set_xscale("log")
    axis.set_xlim(min(0.5, smallest / 1.3), max(2.0, largest) * 1.9)
    ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)]
    low, high = axis.get_xlim()
    axis.set_xticks([t for t in ticks if low <= t <= high], minor=False)
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    positions, names = [], []
    line, op = 0.0, None
    for row in rows:
        if row["op"] != op:
            op = row["op"]
            axis.annotate(
                op, (0.0, line), xycoords=axis.get_yaxis_transform(), xytext=(-8, 0),
                textcoords="offset points", ha="right", va="center", fontweight="bold", fontsize=9,
            )  # fmt: skip
            line += 0.85
        _draw_group(axis, line, row)
        positions.append(line)
        direction = DIRECTION_NAMES.get(row["direction"], row["direction"])
        seconds = min(v["median_s"] for v in row["variants"] if v["kind"] == OURS)
        names.append(f"{row['workload']}\n{direction}: {_three_digits(seconds * 1e3)} ms")
        line += 1.0
    axis.set_yticks(positions, names, fontsize=8)
    axis.set_ylim(line - 0.45, -0.6)
    axis.axvline(1.0, color="black", linewidth=1.2, zorder=3)
    axis.grid(axis="x", color="0.88")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def _draw_group(axis: Axes, line: float, row: dict[str, Any]) -> None:
    peers = _peer_ratios(row)
    thickness = 0.8 / max(1, len(peers))
    for index, (label, colour, ratio) in enumerate(peers):
        y = line + (index - (len(peers) - 1) / 2) * thickness
        shown = label if label not in axis.get_legend_handles_labels()[1] else None
        axis.barh(y, ratio - 1.0, left=1.0, height=thickness * 0.9, color=colour, label=shown)
        right = ratio >= 1.0
        axis.annotate(
            f"{ratio:.3g}x", (ratio, y), xytext=(3 if right else -3, 0),
            textcoords="offset points", va="center", ha="left" if right else "right", fontsize=7,
        )  # fmt: skip


def _peer_ratios(row: dict[str, Any]) -> list[tuple[str, str, float]]:
    """Label, colour and time over fastseg's for every peer of one row."""
    ours = _best(row, OURS)
    assert ours is not None
    peers = []
    for variant in row["variants"]:
        kind, layout = variant["kind"], variant["layout"]
        ratio = variant["median_s"] / ours["median_s"]
        if kind == OURS or not math.isfinite(ratio):
            continue
        if kind == COMPILED:
            peers.append(("torch.compile", PEER_COLOURS[COMPILED, ""], ratio))
        elif kind == EAGER:
            peers.append((f"eager {layout}", PEER_COLOURS[EAGER, layout], ratio))
        else:
            peers.append((f"{kind} {layout}", OTHER_COLOUR, ratio))
    return peers
