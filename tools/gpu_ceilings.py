"""What this GPU can do at most, measured now: a large copy and a large matrix product.

python tools/gpu_ceilings.py                  print as JSON
python tools/gpu_ceilings.py --device         only the name, or why there is none (exit code 1)
python tools/gpu_ceilings.py --results FOLDER --benchmarks FILE
                                              write FOLDER/<gpu>-<date>.json and, where there
                                              are benchmarks, the same as .png; print a table
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def median_seconds(function: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of one call on the device, after warming up."""
    times = []
    for _ in range(3):
        function()
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """Bytes read and written per second by a copy; FLOP/s of an 8192^3 bfloat16 product."""
    size = min(4 << 30, torch.cuda.mem_get_info()[0] // 4)
    source = torch.randint(256, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = 2 * size / median_seconds(functools.partial(target.copy_, source))
    del source, target
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    c = torch.empty_like(a)
    product = 2 * 8192**3 / median_seconds(lambda: torch.mm(a, b, out=c))
    return {"copy_bytes_per_second": copy, "bfloat16_flop_per_second": product}


def environment() -> dict[str, str]:
    """Everything that a number depends on."""

    def output(*command: str) -> str:
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        except FileNotFoundError:
            return "unknown"
        return done.stdout.strip() if done.returncode == 0 else "unknown"

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = "not installed"
    # A copy of the tree without .git can be told what it is.
    revision = os.environ.get("FASTSEG_REVISION") or output("git", "rev-parse", "HEAD")
    if output("git", "status", "--porcelain", "--untracked-files=no") not in ("", "unknown"):
        revision += " with changes"
    import fastseg

    return {
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "revision": revision,
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "triton": triton_version,
        "fastseg": fastseg.__version__,
    }


def benchmark_rows(path: Path | None) -> list[dict[str, Any]]:
    """Name, median seconds and extra_info of every case in a pytest-benchmark file."""
    if path is None or not path.is_file() or path.stat().st_size == 0:
        return []
    return [
        {"name": b["name"], "median": b["stats"]["median"], **b.get("extra_info", {})}
        for b in json.loads(path.read_text())["benchmarks"]
    ]


def print_table(report: dict[str, Any]) -> None:
    """A line for each benchmark, then what it ran on."""
    for row in report["benchmarks"]:
        print(f"{row['name'][:78]:78} {row['median'] * 1e6:12.1f} us")
    copy = report["ceilings"]["copy_bytes_per_second"] / 1e12
    product = report["ceilings"]["bfloat16_flop_per_second"] / 1e12
    print(f"{report['gpu']}: copy {copy:.2f} TB/s, bfloat16 product {product:.0f} TFLOP/s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", action="store_true", help="only name the GPU")
    parser.add_argument("--results", type=Path, help="folder for the report")
    parser.add_argument("--benchmarks", type=Path, help="what pytest-benchmark wrote")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        why = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        print(f"no CUDA device{why}", file=sys.stderr)
        return 1
    if arguments.device:
        print(torch.cuda.get_device_name())
        return 0
    report: dict[str, Any] = {**environment(), "ceilings": ceilings()}
    if arguments.results is None:
        print(json.dumps(report, indent=1))
        return 0
    report["benchmarks"] = benchmark_rows(arguments.benchmarks)
    name = re.sub(r"[^a-z0-9]+", "-", report["gpu"].lower()).strip("-")
    moment = report["date"].replace(":", "")  # two runs of one day are two files
    path = arguments.results / f"{name}-{moment}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print_table(report)
    if report["benchmarks"]:
        picture = path.with_suffix(".png")
        command = ["bench", "report", str(arguments.benchmarks), "--png", str(picture)]
        subprocess.run([sys.executable, "-m", "fastseg", *command], cwd=ROOT, check=True)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
