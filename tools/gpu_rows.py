"""Times the workloads of every op, those with targets first, and writes after each.

    python tools/gpu_rows.py FILE.json                      until all are measured
    python tools/gpu_rows.py FILE.json --stop-after 120     no case begins after so many seconds
    python tools/gpu_rows.py FILE.json --device cpu         the CPU's small workloads: a dry run

Inputs are drawn on the device. A case takes about a second: eager PyTorch in both layouts is the
peer, and every result is checked before it is timed (fastseg.bench). The file is read by
`fastseg bench report`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fastseg.bench import (
    Case,
    Settings,
    describe_machine,
    make_cases,
    measure_ceilings,
    rate,
    results,
    run_case,
)
from fastseg.bench.candidates import OURS
from fastseg.bench.cases import FORWARD_OUT, all_samples

# In the order in which benchmarks/NOTES.md has targets for them; others follow.
FIRST = (
    "upsample_bilinear",
    "upsample_cross_entropy",
    "dilated_conv2d",
    "upsample_argmax",
    "pyramid_pool",
    "upsample_taps",
    "gaussian_filter",
    "permutohedral_filter",
)
SETTINGS = Settings(budget_s=0.3, min_rounds=5, compile=False, other_peers=False, memory=False)


def cases(device: str) -> list[Case]:
    """The first dtype of every op, then the others."""
    samples = all_samples()
    ops = [*FIRST, *sorted(set(samples) - set(FIRST))]
    dtypes = (torch.bfloat16, torch.float32) if device == "cuda" else (torch.float32,)
    return [
        case
        for dtype in dtypes
        for op in ops
        for case in make_cases(op, samples[op], device, dtypes=(dtype,))
        if case.direction != FORWARD_OUT
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--stop-after", type=float, default=1e9, metavar="SECONDS")
    arguments = parser.parse_args()
    started = time.monotonic()
    ceilings = measure_ceilings(arguments.device, 0.3)
    machine = describe_machine(arguments.device)
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    every = cases(arguments.device)
    for case in every:
        begin = time.monotonic()
        if begin - started > arguments.stop_after:
            break
        try:  # one that fails does not end the others
            row = run_case(case, SETTINGS)
            rate(row, ceilings)
            rows.append(row)
            ours = [v["median_s"] for v in row["variants"] if v["kind"] == OURS]
            share, eager = row.get("fraction_of_ceiling", 0), row.get("speedup", {}).get("eager", 0)
            what = f"{min(ours) * 1e6:10.1f} us, {share:4.0%} of {row.get('bound')}, x{eager:.1f}"
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:300]
            failures.append({"case": str(case), "reason": what})
        # Whole at any moment, whenever this process is stopped.
        fresh = arguments.file.with_suffix(".new")
        bundle = results.bundle(machine, ceilings, SETTINGS, rows, failures)
        fresh.write_text(json.dumps(bundle, indent=1) + "\n")
        os.replace(fresh, arguments.file)
        print(f"{str(case)[:70]:70} {what} [{time.monotonic() - begin:.1f} s]", flush=True)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    print(f"{len(rows)} of {len(every)} cases, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
