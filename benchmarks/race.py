"""Two sides of a comparison, each in both memory formats, timed in turn in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastseg.bench.memory import peak_extra_bytes
from fastseg.bench.timing import Variant, time_interleaved

FORMATS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
OURS = "fastseg"


def race(
    name: str,
    variants: list[Variant],
    *,
    peer: str,
    device: str,
    budget_s: float,
    group: str,
    benchmark: Any,
    say: Callable[[str], None],
    note: str = "",
    **more: Any,
) -> None:
    """Times the variants, says how our best format compares with the peer's, and keeps the figures.

    Args:
        name: of the case, for the line that is said.
        variants: labelled "fastseg FORMAT" and "PEER FORMAT", checked already.
        peer: the other side's name in the labels.
        device: "cpu" or "cuda".
        budget_s: seconds of timing for all variants together.
        group: of pytest-benchmark; the figures go to extra_info["fastseg-GROUP"].
        benchmark, say: the fixtures.
        note: at the end of the line.
        more: further figures.
    """
    timings = time_interleaved(variants, device=device, budget_s=budget_s, min_rounds=3)
    rows = {
        v.label: {**timings[v.label].summary(), "peak_bytes": peak_extra_bytes(v, device)}
        for v in variants
    }
    ours, theirs = (
        min(
            (f"{side} {layout}" for layout in FORMATS if f"{side} {layout}" in rows),
            key=lambda label: rows[label]["median_s"],
        )
        for side in (OURS, peer)
    )
    figures: dict[str, Any] = {"variants": rows, **more}
    figures["speedup"] = rows[theirs]["median_s"] / rows[ours]["median_s"]
    line = ", ".join(f"{label} {row['median_s'] * 1e3:.1f} ms" for label, row in rows.items())
    line = f"{name}: {line}: {figures['speedup']:.2f}x"
    if rows[theirs]["peak_bytes"]:
        figures["memory"] = rows[ours]["peak_bytes"] / rows[theirs]["peak_bytes"]
        line += f", {figures['memory']:.2f}x the memory"
    # pytest-benchmark's own table knows nothing of the peer.
    say(f"{line} {note}".rstrip())
    benchmark.group = group
    benchmark.extra_info[f"fastseg-{group}"] = figures
    fastest = next(v for v in variants if v.label == ours)
    benchmark.pedantic(fastest.run, args=(None,), rounds=3, warmup_rounds=0)
