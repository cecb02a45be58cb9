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
import dataclasses
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
    run_case,
)
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


def measured(case: Case, ceilings: Any) -> dict[str, Any]:
    """The row of a case; one that fails says why, and does not end the others."""
    try:
        row = run_case(case, SETTINGS)
        rate(row, ceilings)
    except Exception as error:
        row = {
            "op": case.op,
            "workload": case.workload.name,
            "dtype": case.dtype_name,
            "direction": case.direction,
            "error": f"{type(error).__name__}: {error}"[:300],
        }
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--stop-after", type=float, default=1e9, metavar="SECONDS")
    arguments = parser.parse_args()
    started = time.monotonic()
    ceilings = measure_ceilings(arguments.device, 0.3)
    head = {"machine": describe_machine(arguments.device), "ceilings": dataclasses.asdict(ceilings)}
    rows: list[dict[str, Any]] = []
    every = cases(arguments.device)
    for case in every:
        begin = time.monotonic()
        if begin - started > arguments.stop_after:
            break
        row = measured(case, ceilings)
        rows.append(row)
        # Whole at any moment, whenever this process is stopped.
        fresh = arguments.file.with_suffix(".new")
        fresh.write_text(json.dumps({**head, "results": rows}, indent=1) + "\n")
        os.replace(fresh, arguments.file)
        ours = [v["median_s"] for v in row.get("variants", []) if v["kind"] == "fastseg"]
        what = row.get("error") or (
            f"{min(ours) * 1e6:10.1f} us, {row.get('fraction_of_ceiling', 0):4.0%} of "
            f"{row.get('bound')}, x{row.get('speedup', {}).get('eager', 0):.1f} eager"
        )
        print(f"{str(case)[:70]:70} {what} [{time.monotonic() - begin:.1f} s]", flush=True)
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
    failed = [r for r in rows if "error" in r]
    print(f"{len(rows)} of {len(every)} cases, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
